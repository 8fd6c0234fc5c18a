  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const share = (value) => (value === null ? "–" : value.toFixed(3));
  const perCent = (value) => `${(100 * value).toFixed(1)} %`;
  // Of a path the last steps tell most.
  const short = (name, most) => {
    if (name.length <= most) return name;
    const steps = name.split(/ *[>/|] */);
    for (let first = 1; first < steps.length; first += 1) {
      const tail = `… > ${steps.slice(first).join(" > ")}`;
      if (tail.length <= most) return tail;
    }
    return `${steps[steps.length - 1].slice(0, most - 1)}…`;
  };
  // Plotly reads some tags in its texts: a category's name has none.
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const drawn = new Set();
  const config = { displayModeBar: false, responsive: true };

  const axis = (title, more) => ({
    title: { text: title }, gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--line"),
    fixedrange: true, automargin: true, ...more,
  });
  const layout = (x, y, more) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: color("--ink"), size: 13 },
    margin: { l: 56, r: 16, t: 16, b: 48 }, hovermode: "closest", xaxis: x, yaxis: y, showlegend: false, ...more,
  });
  const option = (parent, value, text) => {
    const made = document.createElement("option");
    made.value = value;
    made.textContent = text;
    parent.append(made);
  };
  const byName = (one, other) => data.names[one].localeCompare(data.names[other]);

  // --- confusion matrices -------------------------------------------------------------------------------------------------------------
  // Pairs are [truth, labeled, rows]. Offers parts of the matrix in `which`, and returns what tells the categories of the chosen one.
  const offerParts = (which, pairs) => {
    const MOST = 25;
    const errors = new Map();
    for (const [truth, labeled, count] of pairs) {
      if (truth === labeled) continue;
      errors.set(truth, (errors.get(truth) || 0) + count);
      errors.set(labeled, (errors.get(labeled) || 0) + count);
    }
    const all = Object.keys(data.names).map(Number).sort(byName);
    const branch = (number) => data.names[number].split(/ *[>/|] */)[0];
    const branches = Map.groupBy ? Map.groupBy(all, branch) : new Map();
    const confused = [...errors].sort((one, other) => other[1] - one[1]).slice(0, MOST).map(([number]) => number).sort(byName);
    if (confused.length && confused.length < all.length) option(which, "confused", `the ${confused.length} most confused categories`);
    option(which, "all", `all ${all.length} categories`);
    if (branches.size > 1 && branches.size < all.length) {
      for (const [name, members] of branches) if (members.length > 1) option(which, `branch ${name}`, `${name} (${members.length})`);
    }
    return () => {
      if (which.value === "all") return all;
      return which.value === "confused" ? confused : branches.get(which.value.slice("branch ".length));
    };
  };
  const drawMatrix = (pairs, numbers) => {
    const places = new Map(numbers.map((number, position) => [number, position]));
    const totals = new Map();
    for (const [truth, , count] of pairs) totals.set(truth, (totals.get(truth) || 0) + count);
    const z = numbers.map(() => numbers.map(() => null)), text = numbers.map(() => numbers.map(() => ""));
    for (const [truth, labeled, count] of pairs) {
      if (!places.has(truth) || !places.has(labeled)) continue;
      // Below 0 what is right, above it what is wrong: two colors, the deeper the larger the share of the category.
      z[places.get(truth)][places.get(labeled)] = (truth === labeled ? -1 : 1) * (count / totals.get(truth));
      text[places.get(truth)][places.get(labeled)] = String(count);
    }
    const narrow = innerWidth < 600, size = numbers.length > 40 ? 13 : narrow ? 20 : 26, letters = narrow ? 14 : 28;
    const full = numbers.map((number) => data.names[number]);
    const label = full.map((name) => short(name, letters));
    const ticks = { tickmode: "array", tickvals: numbers.map((_, position) => position), ticktext: label.map(escaped), showgrid: false, zeroline: false,
      tickfont: { size: numbers.length > 40 ? 9 : 11 } };
    const longest = Math.max(...label.map((name) => name.length));
    const margin = longest * (numbers.length > 40 ? 5.4 : 6.6) + 20;
    const side = Math.max(size * numbers.length, 220);
    Plotly.react("matrix-plot", [{
      type: "heatmap", z, text, texttemplate: numbers.length > 40 ? "" : "%{text}", hoverongaps: false, xgap: 1, ygap: 1, zmin: -1, zmax: 1,
      customdata: z.map((line, row) => line.map((part, column) => [escaped(full[row]), escaped(full[column]), perCent(Math.abs(part))])),
      showscale: false, colorscale: [[0, color("--blue")], [0.5, color("--card")], [1, color("--warm")]],
      hovertemplate: "%{customdata[0]}<br>labeled as %{customdata[1]}<br>%{text} rows, %{customdata[2]} of the category<extra></extra>",
    }], {
      ...layout(axis("", { ...ticks, side: "top", tickangle: -60, automargin: false }),
        axis("", { ...ticks, autorange: "reversed", automargin: false })),
      margin: { l: margin, r: margin / 2, t: margin, b: 12 }, width: 1.5 * margin + side, height: margin + side + 12,
    }, { displayModeBar: false });
  };

  // --- drawing, once a plot comes near the window --------------------------------------------------------------------------------------
  const drawWhenNear = (plots) => {
    const draw = (id) => {
      drawn.add(id);
      plots[id]();
    };
    const start = () => {
      const script = document.createElement("script");
      script.nonce = document.querySelector("script[nonce]").nonce;
      script.textContent = at("plotly").textContent;
      document.head.append(script);
      const near = new IntersectionObserver((entries) => {
        for (const entry of entries) {
          if (!entry.isIntersecting) continue;
          near.unobserve(entry.target);
          draw(entry.target.id);
        }
      }, { rootMargin: "400px" });
      Object.keys(plots).forEach((id) => near.observe(at(id)));
      addEventListener("beforeprint", () => Object.keys(plots).forEach(draw));
      dark.addEventListener("change", () => drawn.forEach(draw));
    };
    addEventListener("load", () => setTimeout(start));
  };
