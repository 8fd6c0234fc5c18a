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
        hovertemplate: "threshold for a precision of %{text}<extra></extra>" },
      { x: [shares[here]], y: [precisions[here]], mode: "markers", marker: { color: color("--warm"), size: 14 }, hoverinfo: "skip" },
    ], layout(axis("share of rows accepted", { tickformat: ".0%", range: [0, 1.01] }), axis("precision of the accepted rows", { tickformat: ".2~%" })), config);
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
  const which = at("which");
  const chosen = offerParts(which, data.pairs);
  const drawConfusions = () => drawMatrix(data.pairs, chosen());
  which.addEventListener("change", () => { if (drawn.has("matrix-plot")) drawConfusions(); });

  filter();
  read();
  drawWhenNear({ "coverage-plot": drawCoverage, "calibration-plot": drawCalibration, "roc-plot": drawCurves, "matrix-plot": drawConfusions });
