"use strict";
// Filters and orders the masks of a page. Names are only ever compared, never turned into markup or code.

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
const LONGEST = 400; // shown at once: laying out thousands takes seconds

const form = document.querySelector("form.filters");
const list = document.querySelector("ol.shots");
const shown = form.querySelector(".shown");
const shots = [...list.children].map((element) => ({
  element,
  name: element.dataset.name,
  text: element.dataset.name.toLowerCase(),
  quality: Number.parseFloat(element.dataset.quality),
  unlike: element.dataset.unlike,
}));
const ORDERS = {
  lowest: (a, b) => a.quality - b.quality,
  highest: (a, b) => b.quality - a.quality,
  name: (a, b) => collator.compare(a.name, b.name),
};
const more = document.createElement("button");
more.type = "button";
more.className = "more";
list.after(more);
let limit = LONGEST;

function bound(field, otherwise) {
  const value = Number.parseFloat(field.value);
  return Number.isNaN(value) ? otherwise : value;
}

function apply() {
  const words = form.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
  const low = bound(form.elements.low, -Infinity);
  const high = bound(form.elements.high, Infinity);
  const unlike = form.elements.unlike?.value ?? "";
  let count = 0;
  for (const shot of shots) {
    const passes =
      shot.quality >= low &&
      shot.quality <= high &&
      (unlike === "" || shot.unlike === unlike) &&
      words.every((word) => shot.text.includes(word));
    count += passes;
    shot.element.hidden = !passes || count > limit;
  }
  const noun = shown.dataset.noun;
  const found = count === shots.length ? `${count} ${noun}` : `${count} of ${shots.length} ${noun}`;
  shown.textContent = count > limit ? `${found}, the first ${limit} shown` : found;
  more.textContent = `Show all ${count} ${noun}`;
  more.hidden = count <= limit;
}

function arrange() {
  shots.sort(ORDERS[form.elements.order.value]);
  list.append(...shots.map((shot) => shot.element));
  apply();
}

more.addEventListener("click", () => {
  limit = Infinity;
  apply();
});
form.addEventListener("input", (event) => (event.target === form.elements.order ? arrange() : apply()));
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => {
  limit = LONGEST;
  setTimeout(arrange);
});
form.hidden = false;
arrange();
