  // One look for each model, in every plot: colors that differ in lightness too, and dashes beside them.
  const palette = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"];
  const dashes = ["solid", "dash", "dot", "dashdot"];
  const look = (number) => ({ color: palette[number % palette.length], dash: dashes[Math.floor(number / palette.length) % dashes.length] });
  const models = data.models;

  // --- bars ---------------------------------------------------------------------------------------------------------------------------
  const measures = [["accuracy", "accuracy"], ["macro_precision", "macro precision"], ["macro_recall", "macro recall"]];
  const drawBars = () => {
    const shades = [color("--blue"), color("--warm"), color("--dim")];
    const traces = measures.map(([key, title], place) => ({
      type: "bar", name: title, x: models.map((model) => escaped(model.name)), y: models.map((model) => model[key][0]), marker: { color: shades[place] },
      error_y: { type: "data", symmetric: false, array: models.map((model) => model[key][2] - model[key][0]),
        arrayminus: models.map((model) => model[key][0] - model[key][1]), color: color("--ink"), thickness: 1, width: 3 },
      customdata: models.map((model) => model[key]),
      hovertemplate: `%{x}: ${title} %{y:.3f}<br>95 % interval %{customdata[1]:.3f} to %{customdata[2]:.3f}<extra></extra>`,
    }));
    const narrow = innerWidth < 600;
    Plotly.react("bars-plot", traces, layout(axis("", { tickangle: models.length > 4 || narrow ? -40 : 0 }), axis("", { range: [0, 1.02] }),
      { barmode: "group", showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
        margin: { l: 40, r: 16, t: narrow ? 80 : 32, b: 48 } }), config);
  };

  // --- curves -------------------------------------------------------------------------------------------------------------------------
  const chooser = at("category");
  [...new Set(models.flatMap((model) => Object.keys(model.curves)))].sort(byName).forEach((number) => option(chooser, number, data.names[number]));
  chooser.value = String(data.largest);
  const readAreas = () => {
    at("areas").textContent = models.map((model) => `${model.name} ${share(model.areas[chooser.value] ?? null)}`).join(" · ");
  };
  const drawCurves = () => {
    readAreas();
    const chance = { x: [0, 1], y: [0, 1], mode: "lines", line: { color: color("--dim"), dash: "dot", width: 1 }, hoverinfo: "skip", showlegend: false };
    const traces = models.flatMap((model, place) => {
      const curve = model.curves[chooser.value];
      if (!curve) return [];
      return [{ x: curve[0], y: curve[1], name: escaped(`${model.name} (${share(model.areas[chooser.value] ?? null)})`), mode: "lines",
        line: { ...look(place), width: 2 }, hovertemplate: `${escaped(model.name)}: false positives %{x:.3f}, true positives %{y:.3f}<extra></extra>` }];
    });
    Plotly.react("roc-plot", [chance, ...traces], layout(axis("false positive rate", { range: [-0.01, 1.01] }),
      axis("true positive rate", { range: [-0.02, 1.04] }), { showlegend: true, legend: { x: 1, xanchor: "right", y: 0.02, yanchor: "bottom" } }), config);
  };
  chooser.addEventListener("change", () => (drawn.has("roc-plot") ? drawCurves() : readAreas()));

  // --- confusions ---------------------------------------------------------------------------------------------------------------------
  const model = at("model"), which = at("which");
  models.forEach((one, number) => option(model, number, one.name));
  const chosen = offerParts(which, models.flatMap((one) => one.pairs)); // one part for all models, so that they can be looked at in turn
  const drawConfusions = () => drawMatrix(models[model.value].pairs, chosen());
  [model, which].forEach((control) => control.addEventListener("change", () => { if (drawn.has("matrix-plot")) drawConfusions(); }));

  readAreas();
  drawWhenNear({ "bars-plot": drawBars, "roc-plot": drawCurves, "matrix-plot": drawConfusions });
