// What makes a report one can work with: the filtered table, the card of a head, the highlight that
// table and charts share, and the control of the rungs. Without scripts, the page shows the same
// table and the static plots. tables.js sorts the tables.
"use strict";

const data = JSON.parse(document.getElementById("report-data").textContent);
const table = document.getElementById("ranking");
const rows = table ? [...table.tBodies[0].rows] : []; // in the order of data.heads
const card = document.getElementById("card");
const state = {
  chosen: new Set(), // heads that are highlighted
  passing: new Set(data.heads.keys()), // heads that pass the filters
  rung: null, // null: each head at its last rung
};

// --- Filters ----------------------------------------------------------------------------------

function makeFilters() {
  const search = element("input", { type: "search", placeholder: "name, reason, …" });
  const chooser = (name) => {
    const values = [...new Set(data.heads.map((head) => head[name]))].sort();
    const options = values.map((value) => element("option", { value }, value));
    return element("select", {}, element("option", { value: "" }, "all"), ...options);
  };
  const stateChooser = chooser("state"), familyChooser = chooser("family");
  const count = element("output", { className: "soft" });
  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    data.heads.forEach((head, index) => {
      const passes =
        rows[index].textContent.toLowerCase().includes(wanted) &&
        ["", head.state].includes(stateChooser.value) && ["", head.family].includes(familyChooser.value);
      rows[index].hidden = !passes;
      state.passing[passes ? "add" : "delete"](index);
    });
    count.textContent = `${state.passing.size} of ${data.heads.length} heads`;
  };
  for (const control of [search, stateChooser, familyChooser])
    control.addEventListener("input", () => { filter(); draw(); });
  filter();
  const labelled = (text, control) => element("label", {}, text, control);
  table.parentElement.before(
    element("div", { className: "tools" }, labelled("Filter ", search), labelled("State ", stateChooser),
      labelled("Family ", familyChooser), count),
  );
}

// --- The card of a head: its figures and its YAML ----------------------------------------------

let hiding = 0, pointerX = 0;
document.addEventListener("pointermove", (event) => { pointerX = event.clientX; });

function show(index) {
  clearTimeout(hiding);
  const head = data.heads[index], headings = table.tHead.rows[0].cells;
  const figures = [...rows[index].cells].flatMap((cell, column) => {
    if (!cell.textContent.trim() || cell.textContent === head.name) return [];
    return [element("dt", {}, headings[column].textContent), element("dd", {}, cell.textContent)];
  });
  card.querySelector("h3").textContent = head.name;
  card.querySelector("p").textContent = `${head.family}${head.winner ? ", the best head" : ""}`;
  card.querySelector("dl").replaceChildren(...figures);
  card.querySelector("pre").textContent = head.yaml;
  card.classList.toggle("left", pointerX > innerWidth / 2); // never over what is pointed at
  card.hidden = false;
  rows.forEach((row, other) => row.classList.toggle("pointed", other === index));
}

// A head that is no longer pointed at gives way to the one in focus, else to the last one that was
// highlighted. The pointer has time to reach the card.
function leave() {
  clearTimeout(hiding);
  hiding = setTimeout(() => {
    rows.forEach((row) => row.classList.remove("pointed"));
    const focused = rows.findIndex((row) => row.querySelector(".head:focus-visible"));
    const next = focused >= 0 ? focused : [...state.chosen].pop();
    if (next === undefined) card.hidden = true;
    else show(next);
  }, 300);
}

function toggle(index) {
  if (!state.chosen.delete(index)) {
    state.chosen.add(index);
    show(index);
  } else leave();
  highlight();
  draw();
}

function highlight() {
  rows.forEach((row, index) => {
    row.classList.toggle("chosen", state.chosen.has(index));
    row.querySelector(".head")?.setAttribute("aria-pressed", state.chosen.has(index));
  });
}

function clear() {
  clearTimeout(hiding); // it would show the head in focus again
  state.chosen.clear();
  card.hidden = true;
  highlight();
  draw();
}

function makeRows() {
  const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === "Candidate");
  rows.forEach((row, index) => {
    const cell = row.cells[column];
    const button = element("button", { type: "button", className: "head" }, ...cell.childNodes);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("focus", () => show(index));
    button.addEventListener("blur", leave);
    cell.append(button);
    row.classList.toggle("winner", data.heads[index].winner);
    row.addEventListener("mousemove", (event) => {
      // Without movement, the page was scrolled below a pointer at rest.
      const moved = event.movementX !== 0 || event.movementY !== 0;
      if (moved && !row.classList.contains("pointed")) show(index);
    });
    row.addEventListener("mouseleave", leave);
    row.addEventListener("click", () => toggle(index));
  });
  card.addEventListener("mouseenter", () => clearTimeout(hiding));
  card.addEventListener("mouseleave", leave);
  card.querySelector("button").addEventListener("click", clear);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") clear(); });
}

// --- The rung, and the charts ------------------------------------------------------------------

function makeRungs(box) {
  const last = data.rungs.length;
  const slider = element("input", { type: "range", min: 0, max: last, value: last });
  const shown = element("output");
  const say = () => {
    const rung = data.rungs[slider.value];
    state.rung = rung ? rung.rung : null;
    shown.textContent = rung ? `${rung.rung}${rung.rung ? "" : " (untrained)"}` : "each head's last";
    slider.setAttribute("aria-valuetext", shown.textContent);
  };
  slider.addEventListener("input", () => { say(); draw(); });
  say();
  box.before(element("div", { className: "tools" }, element("label", {}, "Rung ", slider), shown));
}

const figures = [...document.querySelectorAll("figure[data-chart]")]
  .filter((each) => each.dataset.chart in data.charts);

// Static plots stay until their chart is drawn, and where it cannot be.
async function drawFigure(each) {
  const box = each.querySelector(".chart"), chart = data.charts[each.dataset.chart];
  const first = box.hidden;
  box.hidden = false;
  try {
    each.classList.add("live");
    await drawChart(box, chart, data.heads, state, data.rungs);
  } catch (error) {
    each.classList.remove("live");
    box.hidden = true;
    throw error;
  }
  if (!first) return;
  box.on("plotly_hover", (event) => point(event, show));
  box.on("plotly_unhover", leave);
  box.on("plotly_click", (event) => point(event, toggle));
}

function point(event, act) {
  const index = event.points[0].customdata;
  if (index !== undefined) act(index);
}

// What changes while a drawing is under way is drawn once, after it.
let drawing = Promise.resolve(), queued = null;
function draw() {
  queued ??= drawing = drawing.then(() => {
    queued = null;
    return Promise.all(figures.map(drawFigure));
  });
  return drawing;
}

if (rows.length) {
  makeRows();
  makeFilters();
}
if (figures.length) {
  document.querySelector(".plots").classList.add("live");
  if (data.rungs.length > 1) makeRungs(figures[0].querySelector(".chart"));
  draw().then(() => { document.documentElement.dataset.drawn = "true"; });
  let resizing = 0;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(draw, 150); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
