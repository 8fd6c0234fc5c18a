"use strict";
(() => {
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

  // --- coverage -----------------------------------------------------------------------------------------------------------------------
  const covered = data.coverage;
  const shares = covered.rows.map((rows) => rows / data.rows);
  const precisions = covered.right.map((right, place) => right / covered.rows[place]);
  const slider = at("cutoff");

  const place = () => {
    // The last cutoff that accepts no more than the share asked for; the first where even that accepts more.
    const asked = slider.value / 1000;
    let found = 0;
    while (found + 1 < shares.length && shares[found + 1] <= asked + 1e-9) found += 1;
    return found;
  };
  const read = () => {
    const here = place();
    const said = `confidence from ${share(covered.confidence[here])}: ${perCent(shares[here])} of rows accepted, ` +
      `${perCent(precisions[here])} of them right (${covered.rows[here] - covered.right[here]} of ${covered.rows[here]} wrong)`;
    at("reading").textContent = said;
    slider.setAttribute("aria-valuetext", said);
    return here;
  };
  const drawCoverage = () => {
    const here = read();
    const marks = data.promises.filter((made) => made.threshold !== null).map((made) => {
      const last = covered.confidence.findLastIndex((confidence) => confidence >= made.threshold - 1e-5);
      return { x: shares[Math.max(last, 0)], y: precisions[Math.max(last, 0)], text: `${Math.round(100 * made.precision)} %` };
    });
    Plotly.react("coverage-plot", [
      { x: shares, y: precisions, mode: "lines", line: { color: color("--blue"), width: 2 },
        customdata: covered.confidence, hovertemplate: "%{x:.1%} accepted, %{y:.1%} right<br>confidence %{customdata:.3f}<extra></extra>" },
      { x: marks.map((mark) => mark.x), y: marks.map((mark) => mark.y), text: marks.map((mark) => mark.text), mode: "markers+text",
        textposition: "bottom left", marker: { color: color("--dim"), size: 8, symbol: "diamond" },
        hovertemplate: "threshold of the %{text} contract<extra></extra>" },
      { x: [shares[here]], y: [precisions[here]], mode: "markers", marker: { color: color("--warm"), size: 14 }, hoverinfo: "skip" },
    ], layout(axis("share of rows accepted", { tickformat: ".0%", range: [0, 1.01] }), axis("right among them", { tickformat: ".2~%" })), config);
  };
  slider.addEventListener("input", () => {
    const here = read();
    if (drawn.has("coverage-plot")) Plotly.restyle("coverage-plot", { x: [[shares[here]]], y: [[precisions[here]]] }, [2]);
  });

  // --- calibration --------------------------------------------------------------------------------------------------------------------
  const drawCalibration = () => {
    const variants = Object.entries(data.calibration);
    const symbols = ["circle", "diamond", "square"], colors = [color("--blue"), color("--warm"), color("--dim")];
    const traces = variants.map(([variant, bins], number) => ({
      x: bins.map((bin) => bin[0]), y: bins.map((bin) => bin[1]), customdata: bins.map((bin) => bin[2]), name: variant,
      mode: "markers", marker: { color: colors[number % 3], symbol: symbols[number % 3], size: 10 },
      hovertemplate: `${variant}: confidence %{x:.3f}, right %{y:.3f}<br>%{customdata} rows<extra></extra>`,
    }));
    const diagonal = { x: [0, 1], y: [0, 1], mode: "lines", line: { color: color("--dim"), dash: "dot" }, hoverinfo: "skip", showlegend: false };
    Plotly.react("calibration-plot", [diagonal, ...traces], layout(
      axis("confidence", { range: [0, 1.02] }), axis("right", { range: [0, 1.05] }),
      { showlegend: variants.length > 1, legend: { x: 0.02, y: 0.98 } }), config);
  };

  // --- categories ---------------------------------------------------------------------------------------------------------------------
  const table = at("by-category"), body = table.tBodies[0], rows = [...body.rows];
  const cell = (row, column) => row.cells[column].textContent;
  const sortBy = (column) => {
    const heads = [...table.tHead.rows[0].cells];
    const was = heads[column].getAttribute("aria-sort");
    const ascending = was === "none" ? column === 0 : was === "descending";
    heads.forEach((head, number) => head.setAttribute("aria-sort", number === column ? (ascending ? "ascending" : "descending") : "none"));
    const sign = ascending ? 1 : -1;
    const compared = (one, other) => {
      const [a, b] = [cell(one, column), cell(other, column)];
      if (column === 0) return sign * a.localeCompare(b);
      // What is undefined stands last, whichever way the others stand.
      if (a === "–" || b === "–") return (a === "–") - (b === "–");
      return sign * (Number(a) - Number(b));
    };
    body.append(...rows.sort(compared));
  };
  [...table.tHead.rows[0].cells].forEach((head, column) => head.firstElementChild.addEventListener("click", () => sortBy(column)));
  const filter = () => {
    const wanted = at("filter").value.toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !cell(row, 0).toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    at("count").textContent = `${shown} of ${rows.length} categories`;
  };
  at("filter").addEventListener("input", filter);

  // --- curves -------------------------------------------------------------------------------------------------------------------------
  const chooser = at("category");
  const option = (parent, value, text) => {
    const made = document.createElement("option");
    made.value = value;
    made.textContent = text;
    parent.append(made);
  };
  const byName = (one, other) => data.names[one].localeCompare(data.names[other]);
  Object.keys(data.curves).sort(byName).forEach((number) => option(chooser, number, data.names[number]));
  const drawCurves = () => {
    const curve = data.curves[chooser.value];
    if (!curve) return;
    const [roc, pr] = data.areas[chooser.value];
    at("areas").textContent = `ROC AUC ${share(roc)}, average precision ${share(pr)}`;
    const line = { color: color("--blue"), width: 2 };
    const chance = { x: [0, 1], y: [0, 1], mode: "lines", line: { color: color("--dim"), dash: "dot" }, hoverinfo: "skip" };
    Plotly.react("roc-plot", [chance, { x: curve.roc[0], y: curve.roc[1], mode: "lines", line,
      hovertemplate: "false positives %{x:.3f}, true positives %{y:.3f}<extra></extra>" }],
    layout(axis("false positive rate", { range: [-0.01, 1.01] }), axis("true positive rate", { range: [-0.02, 1.04] })), config);
    Plotly.react("pr-plot", [{ x: curve.pr[0], y: curve.pr[1], mode: "lines", line: { ...line, shape: "hv" },
      hovertemplate: "recall %{x:.3f}, precision %{y:.3f}<extra></extra>" }],
    layout(axis("recall", { range: [-0.01, 1.01] }), axis("precision", { range: [-0.02, 1.04] })), config);
  };
  chooser.addEventListener("change", () => { if (drawn.has("roc-plot")) drawCurves(); });

  // --- confusions ---------------------------------------------------------------------------------------------------------------------
  const MOST = 25;
  const errors = new Map();
  for (const [truth, labeled, count] of data.pairs) {
    if (truth === labeled) continue;
    errors.set(truth, (errors.get(truth) || 0) + count);
    errors.set(labeled, (errors.get(labeled) || 0) + count);
  }
  const all = Object.keys(data.names).map(Number).sort(byName);
  const branch = (number) => data.names[number].split(/ *[>/|] */)[0];
  const branches = Map.groupBy ? Map.groupBy(all, branch) : new Map();
  const confused = [...errors].sort((one, other) => other[1] - one[1]).slice(0, MOST).map(([number]) => number).sort(byName);
  const which = at("which");
  if (confused.length && confused.length < all.length) option(which, "confused", `the ${confused.length} most confused categories`);
  option(which, "all", `all ${all.length} categories`);
  if (branches.size > 1 && branches.size < all.length) {
    for (const [name, members] of branches) if (members.length > 1) option(which, `branch ${name}`, `${name} (${members.length})`);
  }
  const chosen = () => {
    if (which.value === "all") return all;
    return which.value === "confused" ? confused : branches.get(which.value.slice("branch ".length));
  };
  const drawMatrix = () => {
    const numbers = chosen(), places = new Map(numbers.map((number, position) => [number, position]));
    const totals = new Map();
    for (const [truth, , count] of data.pairs) totals.set(truth, (totals.get(truth) || 0) + count);
    const z = numbers.map(() => numbers.map(() => null)), text = numbers.map(() => numbers.map(() => ""));
    for (const [truth, labeled, count] of data.pairs) {
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
  which.addEventListener("change", () => { if (drawn.has("matrix-plot")) drawMatrix(); });

  // --- drawing, once a plot comes near the window --------------------------------------------------------------------------------------
  const plots = { "coverage-plot": drawCoverage, "calibration-plot": drawCalibration, "roc-plot": drawCurves, "matrix-plot": drawMatrix };
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
  filter();
  read();
  addEventListener("load", () => setTimeout(start));
})();
