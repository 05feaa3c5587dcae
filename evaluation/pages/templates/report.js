"use strict";
const byId = (id) => document.getElementById(id);
const grid = byId("grid"), items = [...grid.children];

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
  const shown = items.filter((item) => !item.hidden).length;
  byId("count").textContent = shown === items.length ? `${shown} pictures` : `${shown} of ${items.length} pictures`;
}

for (const id of ["sort", "reversed", "class"]) byId(id)?.addEventListener("change", arrange);
byId("opacity").addEventListener("input", (event) => {
  document.body.style.setProperty("--opacity", event.target.value / 100);
});
byId("points")?.addEventListener("change", (event) => document.body.classList.toggle("points", event.target.checked));
for (const radio of document.querySelectorAll("input[name=what]")) {
  radio.addEventListener("change", () => document.body.classList.toggle("true", radio.value === "true"));
}

grid.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const dialog = byId("larger"), [place, text] = dialog.children;
  place.replaceChildren(button.querySelector(".layers").cloneNode(true));
  text.textContent = button.querySelector("img").alt;
  dialog.showModal();
});

// Fields keep what they held when a page is loaded again.
document.querySelector("form.controls").reset();
document.querySelector("form.controls").hidden = false;
arrange();
