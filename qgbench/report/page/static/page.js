"use strict";
// Sorts tables by their headings; filters and searches the rows of a board, and keeps that choice in the address;
// opens what is folded where a link leads into it, and all of it for paper.
// Text of records is only ever read and compared, never turned into markup or code.

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
const LONGEST = 400; // rows shown at once: laying out thousands takes seconds
const OPPOSITE = { ascending: "descending", descending: "ascending" };

function keyOf(cell, isNumber) {
  const text = cell.dataset.v ?? cell.textContent.trim();
  return isNumber ? Number.parseFloat(text) : text;
}

/** Whether the # of an address is the choice of a board, and not a place on the page. */
function isChoice(hash) {
  return hash.includes("=");
}

function isMissing(key) {
  return key === "" || Number.isNaN(key);
}

/** Make the headings of a table buttons that sort it. Missing values are last in both directions. */
function makeSortable(table, onSort) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];

  function sort(index, direction) {
    const isNumber = headings[index]?.dataset.kind === "number";
    const sign = direction === "descending" ? -1 : 1;
    const compare = isNumber ? (a, b) => a - b : collator.compare;
    const keyed = original.map((row) => [keyOf(row.cells[index], isNumber), row]);
    keyed.sort(([a], [b]) => {
      if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
      return sign * compare(a, b);
    });
    body.remove();
    body.append(...keyed.map(([, row]) => row));
    table.append(body);
    headings.forEach((heading, other) => heading.setAttribute("aria-sort", other === index ? direction : "none"));
  }

  function reset() {
    body.append(...original);
    headings.forEach((heading) => heading.setAttribute("aria-sort", "none"));
  }

  headings.forEach((heading, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const first = heading.dataset.first ?? "ascending";
      const direction = OPPOSITE[heading.getAttribute("aria-sort")] ?? first;
      sort(index, direction);
      onSort(index, direction);
    });
  });
  return { sort, reset, count: headings.length, body, rows: original };
}

/** Join a table with its form of filters; the state of both stands behind the # of the address. */
function makeBoard(table, form) {
  const state = { sort: "", dir: "", limit: LONGEST };
  const shown = form.querySelector(".shown");
  const selects = [...form.querySelectorAll("select")];
  const sortable = makeSortable(table, (index, direction) => {
    state.sort = String(index);
    state.dir = direction;
    apply();
    remember();
  });
  const texts = new Map();
  for (const row of sortable.rows) {
    const words = [...row.cells].slice(0, 5).map((cell) => cell.textContent.trim());
    texts.set(row, [...words, row.dataset.search, row.dataset.dataset, row.dataset.regime].join(" ").toLowerCase());
  }
  const more = document.createElement("button");
  more.type = "button";
  more.className = "more";
  more.addEventListener("click", () => {
    state.limit = Infinity;
    apply();
  });
  table.parentElement.after(more);

  function apply() {
    const wanted = selects.filter((select) => select.value !== "").map((select) => [select.name, select.value]);
    const parts = form.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of sortable.body.rows) {
      const passes =
        wanted.every(([name, value]) => row.dataset[name] === value) &&
        parts.every((part) => texts.get(row).includes(part));
      count += passes;
      row.hidden = !passes || count > state.limit;
    }
    const all = sortable.rows.length;
    const found = count === all ? `${all} ${shown.dataset.noun}` : `${count} of ${all} ${shown.dataset.noun}`;
    shown.textContent = count > state.limit ? `${found}, the first ${state.limit} shown` : found;
    more.textContent = `Show all ${count} ${shown.dataset.noun}`;
    more.hidden = count <= state.limit;
  }

  function remember() {
    const hash = new URLSearchParams();
    for (const element of [...selects, form.elements.q]) {
      if (element.value.trim() !== "") hash.set(element.name, element.value.trim());
    }
    if (state.dir !== "") {
      hash.set("sort", state.sort);
      hash.set("dir", state.dir);
    }
    const text = hash.toString();
    history.replaceState(null, "", text === "" ? location.pathname + location.search : `#${text}`);
  }

  function recall() {
    const hash = new URLSearchParams(location.hash.slice(1));
    for (const select of selects) {
      const value = hash.get(select.name) ?? "";
      select.value = [...select.options].some((option) => option.value === value) ? value : "";
    }
    form.elements.q.value = hash.get("q") ?? "";
    const index = Number.parseInt(hash.get("sort") ?? "", 10);
    if (index >= 0 && index < sortable.count && hash.get("dir") in OPPOSITE) {
      state.sort = String(index);
      state.dir = hash.get("dir");
      sortable.sort(index, state.dir);
    } else {
      state.sort = state.dir = "";
      sortable.reset();
    }
    apply();
  }

  form.addEventListener("input", () => {
    apply();
    remember();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    history.replaceState(null, "", location.pathname + location.search);
    setTimeout(recall);
  });
  window.addEventListener("hashchange", () => {
    if (isChoice(location.hash) || location.hash === "") recall();
  });
  form.hidden = false;
  recall();
}

for (const table of document.querySelectorAll("table.sortable")) {
  const form = table.classList.contains("board") ? document.querySelector("form.filters") : null;
  if (form === null) makeSortable(table, () => {});
  else makeBoard(table, form);
}

/** Open the folds around what the address names: a place, or the board whose choice it holds. */
function reveal() {
  const hash = location.hash;
  const target = isChoice(hash) ? document.querySelector("form.filters") : document.getElementById(hash.slice(1));
  for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  target?.scrollIntoView();
}

window.addEventListener("hashchange", reveal);
reveal();

let closed = [];
window.addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const fold of closed) fold.open = true;
});
window.addEventListener("afterprint", () => {
  for (const fold of closed) fold.open = false;
});
