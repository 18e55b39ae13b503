// The charts of a page, drawn by plotly.js from plain data: who the heads are, and where they lie.
"use strict";

const FONT = { family: "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif", size: 12 };
const LABEL_SIZE = 11;
const NARROW = 640; // pixels of a chart below which ranks stand for names
const LONGEST = 30; // characters of a name in a chart; card and table have the whole name
const LINEAR = 0.35 / 0.9; // length of the linear part of a symlog axis, in decades, as in matplotlib

// plotly reads some HTML in its texts; names are shown as they are.
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const shortened = (name) => (name.length <= LONGEST ? name : `${name.slice(0, LONGEST - 1)}…`);
const figure = (value) => Number(value.toPrecision(3)).toString().replace("-", "−");

function theme() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  return { ink: colour("ink"), soft: colour("soft"), line: colour("line"), paper: colour("paper") };
}

// Where a value lies on an axis. plotly has no symlog scale, so the page places the values itself.
function placer(axis) {
  const { scale, threshold } = axis;
  if (scale === "log") return (value) => Math.log10(value);
  if (scale !== "symlog") return (value) => value;
  return (value) => {
    const size = Math.abs(value) / threshold;
    return Math.sign(value) * (size <= 1 ? LINEAR * size : LINEAR + Math.log10(size));
  };
}

function padded(values, share = 0.05) {
  const finite = values.filter((value) => value !== null && Number.isFinite(value));
  if (!finite.length) return [0, 1];
  const low = Math.min(...finite), high = Math.max(...finite);
  const margin = (high - low) * share || Math.abs(high) * share || 0.5;
  return [low - margin, high + margin];
}

// 0 and as many of 1, 2 and 5 of each decade as there is room for.
function decadeTicks(axis, [low, high], place, pixels) {
  const perDecade = pixels / (high - low);
  const steps = perDecade > 150 ? [1, 2, 5] : perDecade > 70 ? [1, 3] : [1];
  const marks = axis.scale === "symlog" ? [0] : [];
  for (let decade = Math.log10(axis.threshold); decade < 9; decade++)
    for (const step of steps) marks.push(step * 10 ** decade);
  const shown = marks.filter((mark) => place(mark) >= low && place(mark) <= high);
  return { tickvals: shown.map(place), ticktext: shown.map((mark) => String(+mark.toPrecision(3))) };
}

function frame(colours, more) {
  return {
    font: { ...FONT, color: colours.ink }, paper_bgcolor: colours.paper, plot_bgcolor: colours.paper,
    hovermode: "closest", hoverdistance: 12, annotations: [], shapes: [],
    margin: { l: 56, r: 12, t: 28, b: 48 }, ...more,
  };
}

const axisLook = (colours) => ({
  gridcolor: colours.line, linecolor: colours.soft, zeroline: false, showline: true, ticks: "outside",
});

// How a head is drawn: faint if it is filtered out, or if others are highlighted.
function look(head, index, state) {
  const hidden = !state.passing.has(index);
  const behind = state.chosen.size > 0 && !state.chosen.has(index);
  const trained = head.state === "complete" || head.state === "running";
  const crossed = head.state === "collapsed" || head.state === "failed";
  return {
    opacity: hidden ? 0.06 : behind ? 0.3 : 1,
    named: !hidden && !behind,
    front: head.winner || state.chosen.has(index),
    symbol: crossed ? "x" : head.symbol + (trained ? "" : "-open"),
  };
}

function marker(head, drawn, colours, size) {
  const ring = head.winner ? { color: colours.ink, width: 2 } : { width: 1.5, color: head.colour };
  return { color: head.colour, symbol: drawn.symbol, size: drawn.front ? size + 5 : size, line: ring };
}

// The marker at the end of a curve, and dots on the way there.
function atEnd(look, length, dot = 3) {
  const sizes = (end, before) => Array.from({ length }, (_, k) => (k === length - 1 ? end : before));
  return { ...look, opacity: 1, size: sizes(look.size, dot), line: { ...look.line, width: sizes(look.line.width, 0) } };
}

// An entry for each family, and for hollow and crossed markers.
function legendTraces(heads, colours) {
  const entries = new Map();
  for (const head of heads) {
    const name = head.control ? `${head.family} (control)` : head.family;
    if (!entries.has(name)) entries.set(name, { color: head.colour, symbol: head.symbol });
  }
  const some = (...states) => heads.some((head) => states.includes(head.state));
  if (some("pruned")) entries.set("hollow: pruned", { color: colours.ink, symbol: "circle-open" });
  if (some("collapsed", "failed")) entries.set("collapsed or failed", { color: colours.ink, symbol: "x" });
  return [...entries].map(([name, look]) => ({
    x: [null], y: [null], mode: "markers", name: plain(shortened(name)), showlegend: true,
    marker: { ...look, size: 9, line: { width: 1.5, color: look.color } },
  }));
}

function scatterTraces(chart, heads, state, colours) {
  const px = placer(chart.x), traces = [], ends = [];
  for (const point of [...chart.points].reverse()) { // the best head is drawn last
    // At a rung, the heads that were scored there; else each head at its last rung.
    const last = state.rung === null;
    const at = last ? point.path.length - 1 : point.rungs.indexOf(state.rung);
    if (at < 0) continue;
    const head = heads[point.head], drawn = look(head, point.head, state);
    const path = point.path.slice(0, at + 1), [x, y] = path[at];
    const strong = head.finalist || drawn.front;
    // 95% intervals belong to the last rung alone.
    const bars = ([value, low, high], place) => ({
      type: "data", symmetric: false, thickness: 1, width: 0, color: head.colour + (strong ? "" : "50"),
      visible: last && low !== null && high !== null,
      array: path.map((_, k) => (k === at ? place(high) - place(value) : 0)),
      arrayminus: path.map((_, k) => (k === at ? place(value) - place(low) : 0)),
    });
    const range = ([, low, high]) => (last && low !== null ? ` [${figure(low)}, ${figure(high)}]` : "");
    const line = (axis, value, interval, k) =>
      `<br>${plain(axis.title)}: ${figure(value)}${k === at ? range(interval) : ""}`;
    traces.push({
      x: path.map((p) => px(p[0])), y: path.map((p) => p[1]), mode: "lines+markers",
      customdata: path.map(() => point.head), opacity: drawn.opacity, showlegend: false, hoverinfo: "text",
      hovertext: path.map((p, k) =>
        `<b>${plain(head.name)}</b>${line(chart.x, p[0], point.x, k)}${line(chart.y, p[1], point.y, k)}`),
      line: { color: head.colour + (drawn.front ? "" : "50"), width: drawn.front ? 2.5 : 1 },
      marker: atEnd(marker(head, drawn, colours, 9), path.length),
      error_x: bars(point.x, px), error_y: bars(point.y, (value) => value),
    });
    ends.push({ index: point.head, x: px(x), y, path: path.map((p) => [px(p[0]), p[1]]), ...drawn });
  }
  return { traces, ends: ends.reverse() };
}

async function drawScatter(box, chart, heads, state) {
  const colours = theme(), width = box.clientWidth, wide = width >= NARROW, px = placer(chart.x);
  const { traces, ends } = scatterTraces(chart, heads, state, colours);
  const baselines = chart.baselines ?? [];
  const xs = chart.points.flatMap((p) => [...p.x, ...p.path.map((q) => q[0])]).filter((v) => v !== null);
  const ys = chart.points.flatMap((p) => [...p.y, ...p.path.map((q) => q[1])]);
  const xRange = padded(xs.map(px)), yRange = padded([...ys, ...baselines.map((line) => line.value)]);
  const decades = chart.x.scale === "linear" ? {} : decadeTicks(chart.x, xRange, px, width - 150);
  if (chart.trend && [null, chart.trend.rung].includes(state.rung))
    traces.unshift({
      x: chart.trend.points.map((p) => px(p[0])), y: chart.trend.points.map((p) => p[1]), mode: "lines",
      showlegend: false, line: { color: colours.soft, width: 1.5, dash: "dot" }, hoverinfo: "text",
      text: plain(chart.trend.text),
    });
  const entries = legendTraces(heads, colours), abreast = wide ? 6 : 2;
  const below = 20 * Math.ceil(entries.length / abreast) + 70; // legend, title and ticks
  const layout = frame(colours, {
    width, height: (wide ? 520 : 340) + below, showlegend: true, dragmode: wide ? "zoom" : false,
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, font: { size: 11 },
      entrywidthmode: "fraction", entrywidth: 1 / abreast, itemclick: false, itemdoubleclick: false },
    margin: { l: 56, r: baselines.length ? 78 : 12, t: 40, b: below, autoexpand: false },
    xaxis: { ...axisLook(colours), range: xRange, ...decades },
    yaxis: { ...axisLook(colours), title: { text: plain(chart.y.title) }, range: yRange },
    shapes: baselines.map(({ value }) => ({
      type: "line", layer: "below", xref: "paper", x0: 0, x1: 1, y0: value, y1: value,
      line: { color: colours.soft, width: 1, dash: "dash" },
    })),
  });
  const area = plotArea(layout), words = chart.x.words ? `<br><span style="font-size:11px">${plain(chart.x.words)}</span>` : "";
  layout.annotations = [
    ...endLabels(baselines.map(({ text, value }) => ({ text, x: xRange[1], y: value })), area, colours),
    ...headLabels(ends, heads, area, wide, colours),
    // An annotation, because plotly would put the axis title where the legend pushes it.
    { text: plain(chart.x.title) + words, xref: "paper", yref: "paper", x: 0.5, y: 0, yanchor: "top",
      yshift: -22, showarrow: false },
  ];
  if (chart.trend) layout.annotations.push(note(chart.trend.text, wide ? 12 : 10, colours));
  await Plotly.react(box, [...traces, ...entries], layout, config(box, wide));
}

const note = (text, size, colours) => ({
  text: plain(text), xref: "paper", yref: "paper", x: 0, y: 1, xanchor: "left", yanchor: "bottom",
  yshift: 6, showarrow: false, font: { size, color: colours.soft },
});

// The area within the axes and where values lie in it, in pixels. Margins do not move by themselves,
// so labels have their places before anything is drawn.
function plotArea({ width, height, margin, ...layout }, x = "xaxis", y = "yaxis") {
  const across = layout[x].domain ?? [0, 1], up = layout[y].domain ?? [0, 1];
  const toX = (share) => margin.l + share * (width - margin.l - margin.r);
  const toY = (share) => margin.t + (1 - share) * (height - margin.t - margin.b);
  const within = (value, [low, high], [start, end]) => start + ((value - low) / (high - low)) * (end - start);
  return {
    left: toX(across[0]), right: toX(across[1]), top: toY(up[1]), bottom: toY(up[0]),
    toX: (value) => toX(within(value, layout[x].range, across)),
    toY: (value) => toY(within(value, layout[y].range, up)),
  };
}

const canvas = document.createElement("canvas").getContext("2d");
function textWidth(text, bold) {
  canvas.font = `${bold ? "bold " : ""}${LABEL_SIZE}px ${FONT.family}`;
  return canvas.measureText(text).width;
}

const DISTANCES = [7, 12, 18, 26, 36, 48, 62, 78, 96, 120, 150];
const FAR = 96; // pixels beyond which the line to a name is hard to follow: the rank is nearer
const ANGLES = [0, 180, 45, 135, -45, -135, 90, -90, 22, 158, -22, -158, 67, 113, -67, -113]
  .map((degrees) => (degrees * Math.PI) / 180);

// A label for each head, where it covers no marker and no other label and as little of the curves as
// possible; a line joins it to its marker. The best heads choose first. A name that finds no place
// becomes the head's rank, with which the table begins.
function headLabels(ends, heads, area, wide, colours) {
  const here = ends.map((end) => ({ ...end, x: area.toX(end.x), y: area.toY(end.y), at: end }));
  const taken = here.map(({ x, y }) => ({ x0: x - 6, x1: x + 6, y0: y - 6, y1: y + 6 }));
  const ink = here.flatMap((end) => alongPath(end.path.map(([x, y]) => [area.toX(x), area.toY(y)])));
  const labels = [];
  for (const end of here.filter((end) => end.named)) {
    const head = heads[end.index], rank = String(head.rank), name = shortened(head.name);
    const texts = wide || end.front ? [name, rank] : [rank];
    for (const text of texts) {
      const reach = DISTANCES.filter((distance) => text === rank || distance <= FAR);
      const spot = bestSpot(end, textWidth(text, end.front) + 4, reach, area, taken, ink);
      if (spot === null) continue;
      taken.push(spot.box);
      labels.push({
        x: end.at.x, y: end.at.y, ax: spot.dx, ay: spot.dy, text: end.front ? `<b>${plain(text)}</b>` : plain(text),
        showarrow: true, arrowhead: 0, arrowwidth: 0.8, standoff: 5, borderpad: 0,
        arrowcolor: spot.far ? head.colour : "rgba(0,0,0,0)", font: { size: LABEL_SIZE, color: colours.ink },
      });
      break;
    }
  }
  return labels;
}

function bestSpot({ x, y }, width, reach, area, taken, ink) {
  const height = LABEL_SIZE + 4;
  let best = null;
  for (const distance of reach) {
    if (best !== null && distance / 4 > best.cost) break; // further away is only worse
    for (const angle of ANGLES) {
      const dx = Math.cos(angle) * (distance + width / 2), dy = -Math.sin(angle) * (distance + height / 2);
      const box = { x0: x + dx - width / 2, x1: x + dx + width / 2, y0: y + dy - height / 2, y1: y + dy + height / 2 };
      if (box.x0 < area.left || box.x1 > area.right || box.y0 < area.top || box.y1 > area.bottom) continue;
      if (taken.some((other) => box.x0 < other.x1 && other.x0 < box.x1 && box.y0 < other.y1 && other.y0 < box.y1)) continue;
      const covered = ink.filter(([px, py]) => px > box.x0 && px < box.x1 && py > box.y0 && py < box.y1).length;
      const cost = distance / 4 + covered;
      if (best === null || cost < best.cost) best = { cost, dx, dy, box, far: distance > 10 };
    }
  }
  return best;
}

// Points a few pixels apart along a path.
function alongPath(path) {
  return path.slice(1).flatMap(([x, y], k) => {
    const [x0, y0] = path[k], steps = Math.max(1, Math.round(Math.hypot(x - x0, y - y0) / 6));
    return Array.from({ length: steps }, (_, i) => [x0 + ((x - x0) * i) / steps, y0 + ((y - y0) * i) / steps]);
  });
}

// Labels to the right of the axes, at the heights of their points and moved apart where these are close.
function endLabels(ends, area, colours, refs = {}) {
  const { toY } = area, gap = LABEL_SIZE + 3;
  const sorted = [...ends].sort((a, b) => toY(a.y) - toY(b.y));
  const places = sorted.map((end) => toY(end.y));
  for (let k = 1; k < places.length; k++) places[k] = Math.max(places[k], places[k - 1] + gap);
  for (let k = places.length - 1, limit = area.bottom; k >= 0; k--, limit -= gap) places[k] = Math.min(places[k], limit);
  return sorted.map((end, k) => ({
    ...refs, x: end.x, y: end.y, ax: area.right - area.toX(end.x) + 14, ay: places[k] - toY(end.y),
    xanchor: "left", text: end.bold ? `<b>${plain(end.text)}</b>` : plain(end.text), showarrow: true,
    arrowhead: 0, arrowwidth: 0.8, arrowcolor: end.colour ?? colours.soft, font: { size: LABEL_SIZE, color: colours.ink },
  }));
}

async function drawCurves(box, chart, heads, state, rungs) {
  const colours = theme(), width = box.clientWidth, wide = width >= NARROW;
  const columns = wide && chart.panels.length > 1 ? 2 : 1, rows = Math.ceil(chart.panels.length / columns);
  const best = heads.filter((head, index) => head.finalist || look(head, index, state).front);
  const label = (head) => (wide ? shortened(head.name) : String(head.rank));
  const names = 24 + Math.max(textWidth("base"), ...best.map((head) => textWidth(label(head), true)));
  const height = rows * (wide ? 250 : 210) + 60;
  const inner = width - 56 - names;
  const traces = [], layout = frame(colours, { width, height, dragmode: wide ? "zoom" : false, showlegend: false });
  layout.margin = { l: 56, r: names, t: 28, b: 44, autoexpand: false };
  const at = rungs.find((each) => each.rung === state.rung);
  chart.panels.forEach((panel, k) => {
    const id = k ? String(k + 1) : "", column = k % columns, row = Math.floor(k / columns);
    const gapX = columns > 1 ? (names + 56) / inner : 0, span = (1 - gapX * (columns - 1)) / columns;
    const tall = 1 / rows, x0 = column * (span + gapX);
    const heights = [...panel.curves.flat(), ...panel.base].map((p) => p[1]);
    const last = k + columns >= chart.panels.length;
    layout[`xaxis${id}`] = { ...axisLook(colours), domain: [x0, x0 + span], anchor: `y${id}`,
      range: padded(chart.panels.flatMap(({ curves }) => curves.flat().map((p) => p[0]))),
      title: last ? { text: plain(chart.x.title), standoff: 4 } : undefined };
    layout[`yaxis${id}`] = { ...axisLook(colours), domain: [1 - (row + 1) * tall + 34 / height, 1 - row * tall - 8 / height],
      anchor: `x${id}`, range: padded(heights, 0.08), title: { text: plain(panel.title), standoff: 6 } };
    const on = { xaxis: `x${id}`, yaxis: `y${id}` };
    for (let index = panel.curves.length - 1; index >= 0; index--) {
      const curve = panel.curves[index], head = heads[index], drawn = look(head, index, state);
      if (!curve.length) continue;
      traces.push({
        ...on, x: curve.map((p) => p[0]), y: curve.map((p) => p[1]), mode: "lines+markers", hoverinfo: "text",
        customdata: curve.map(() => index), line: { color: head.colour, width: drawn.front ? 3 : head.finalist ? 2 : 1 },
        hovertext: curve.map((p) => `<b>${plain(head.name)}</b><br>${plain(panel.title)}: ${figure(p[1])}`),
        opacity: drawn.opacity * (head.finalist || drawn.front ? 1 : 0.45),
        marker: atEnd(marker(head, drawn, colours, 7), curve.length),
      });
    }
    if (panel.base.length)
      traces.push({ ...on, x: panel.base.map((p) => p[0]), y: panel.base.map((p) => p[1]), mode: "lines",
        line: { color: colours.ink, width: 2, dash: "dash" }, hoverinfo: "text", hovertext: "base" });
    if (at) layout.shapes.push({ type: "line", xref: `x${id}`, yref: `y${id} domain`, x0: at.images, x1: at.images,
      y0: 0, y1: 1, line: { color: colours.soft, width: 1, dash: "dot" } });
  });
  layout.annotations = chart.panels.flatMap((panel, k) => {
    const id = k ? String(k + 1) : "", area = plotArea(layout, `xaxis${id}`, `yaxis${id}`);
    const ends = panel.curves.flatMap((curve, index) => {
      const head = heads[index], drawn = look(head, index, state);
      if (!curve.length || !drawn.named || !(head.finalist || drawn.front)) return [];
      const [x, y] = curve[curve.length - 1];
      return [{ x, y, text: label(head), bold: drawn.front, colour: head.colour }];
    });
    if (panel.base.length) {
      const [x, y] = panel.base[panel.base.length - 1];
      ends.push({ x, y, text: "base" });
    }
    return endLabels(ends, area, colours, { xref: `x${id}`, yref: `y${id}` });
  });
  await Plotly.react(box, traces, layout, config(box, wide));
}

async function drawTimeline(box, chart, heads, state) {
  const colours = theme(), width = box.clientWidth, wide = width >= NARROW, count = chart.ends.length;
  const traces = chart.ends.map((end, index) => {
    const head = heads[index], drawn = look(head, index, state);
    return {
      x: [0, end], y: [index, index], mode: "lines+markers", customdata: [index, index], hoverinfo: "text",
      hovertext: `<b>${plain(head.name)}</b><br>${head.state}, last rung ${end}`, opacity: drawn.opacity,
      line: { color: head.colour, width: drawn.front ? 4 : 2 },
      marker: atEnd(marker(head, drawn, colours, 8), 2, 0),
    };
  });
  const label = (head) => plain(`${head.rank}  ${shortened(head.name)}`);
  const layout = frame(colours, {
    width, height: 90 + 19 * count, dragmode: false, showlegend: false,
    xaxis: { ...axisLook(colours), title: { text: "Rung (0: untrained)" }, dtick: 1, range: [-0.15, chart.planned + 0.25] },
    yaxis: { tickvals: chart.ends.map((_, index) => index), range: [count - 0.4, -0.6], automargin: true, zeroline: false,
      showgrid: false, tickfont: { size: LABEL_SIZE },
      ticktext: heads.slice(0, count).map((head, index) => (look(head, index, state).front ? `<b>${label(head)}</b>` : label(head))) },
  });
  if (state.rung !== null)
    layout.shapes.push({ type: "line", yref: "paper", x0: state.rung, x1: state.rung, y0: 0, y1: 1,
      line: { color: colours.soft, width: 1, dash: "dot" } });
  await Plotly.react(box, traces, layout, config(box, wide));
}

const config = (box, wide) => ({
  displaylogo: false, displayModeBar: wide ? "hover" : false, showTips: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  toImageButtonOptions: { format: "png", scale: 3, filename: box.dataset.chart },
});

const DRAW = { scatter: drawScatter, curves: drawCurves, timeline: drawTimeline };

// Draws a chart into a box. The grey of controls is that of the colour scheme.
function drawChart(box, chart, heads, state, rungs) {
  const { soft } = theme();
  const tinted = heads.map((head) => (head.control ? { ...head, colour: soft } : head));
  return DRAW[chart.kind](box, chart, tinted, state, rungs);
}
