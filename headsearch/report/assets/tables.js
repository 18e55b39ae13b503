// Tables of any page that can be sorted: a button in each heading.
"use strict";

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

// The value of a cell: the number that it begins with, "0.29 [0.27, 0.32]" → 0.29. Missing is null.
function cellValue(cell, numeric) {
  const text = cell.textContent.trim();
  if (!numeric) return text;
  const number = parseFloat(text.replace("−", "-"));
  return Number.isNaN(number) ? null : number;
}

function makeSortable(sortable) {
  const headings = [...sortable.tHead.rows[0].cells];
  const original = [...sortable.tBodies[0].rows];
  headings.forEach((heading, column) => {
    const button = element("button", { type: "button", className: "sort" }, ...heading.childNodes);
    button.addEventListener("click", () => {
      const falling = heading.getAttribute("aria-sort") === "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
      sortable.tBodies[0].append(...sorted(original, column, heading.classList.contains("number"), falling));
    });
    heading.append(button);
  });
}

function sorted(lines, column, numeric, falling) {
  const keyed = lines.map((line) => ({ line, value: cellValue(line.cells[column], numeric) }));
  keyed.sort(({ value: a }, { value: b }) => {
    if (a === null || b === null) return (a === null) - (b === null); // missing figures stay last
    const order = numeric ? a - b : a.localeCompare(b, "en", { numeric: true });
    return falling ? -order : order;
  });
  return keyed.map(({ line }) => line);
}

for (const each of document.querySelectorAll("table.sortable")) makeSortable(each);
