"use strict";
const byId = (id) => document.getElementById(id);
const grid = byId("grid"), items = [...grid.children];
const shown = () => [...grid.children].filter((item) => !item.hidden); // in their order

// What an item is sorted by; what has no number comes last either way.
function key(item, by) {
  if (by === "name") return item.dataset.name;
  const text = /^\d+$/.test(by) ? item.dataset.areas.split(" ")[by] : item.dataset[by];
  return text === "" ? NaN : Number(text);
}

function arrange() {
  const by = byId("sort").value, sign = byId("reversed").checked ? -1 : 1, wanted = byId("class")?.value ?? "";
  const compare = (first, second) => {
    const [a, b] = [key(first, by), key(second, by)];
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return sign * (by === "name" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  };
  grid.append(...[...items].sort(compare));
  for (const item of items) item.hidden = wanted !== "" && item.dataset.class !== wanted;
  const count = shown().length;
  byId("count").textContent = count === items.length ? `${count} pictures` : `${count} of ${items.length} pictures`;
}

for (const id of ["sort", "reversed", "class"]) byId(id)?.addEventListener("change", arrange);
byId("opacity").addEventListener("input", (event) => {
  document.body.style.setProperty("--opacity", event.target.value / 100);
});
byId("points")?.addEventListener("change", (event) => document.body.classList.toggle("points", event.target.checked));
for (const radio of document.querySelectorAll("input[name=what]")) {
  radio.addEventListener("change", () => document.body.classList.toggle("true", radio.value === "true"));
}

const dialog = byId("larger"), [place, legend, text] = dialog.children;
let current;

function enlarge(item) {
  current = item;
  place.replaceChildren(item.querySelector(".layers").cloneNode(true));
  text.textContent = `${shown().indexOf(item) + 1} of ${shown().length}: ${item.querySelector("img").alt}`;
}

// There is none before the first and after the last.
function step(by) {
  const next = shown()[shown().indexOf(current) + by];
  if (next) enlarge(next);
}

grid.addEventListener("click", (event) => {
  const item = event.target.closest("button")?.parentElement;
  if (!item) return;
  enlarge(item);
  dialog.showModal();
});
dialog.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) step(by);
});
for (const button of dialog.querySelectorAll("button[value]")) {
  button.addEventListener("click", () => step(Number(button.value)));
}
dialog.addEventListener("close", () => current.querySelector("button").focus());
legend.replaceChildren(...document.querySelector("#pictures ~ .legend").cloneNode(true).children);

// Fields keep what they held when a page is loaded again.
document.querySelector("form.controls").reset();
document.querySelector("form.controls").hidden = false;
arrange();
