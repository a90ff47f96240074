"use strict";
const value = (row, column) => {
  const text = row.cells[column].textContent.trim().replace(/^</, "");
  const number = parseFloat(text.replace("−", "-"));
  return Number.isNaN(number) ? text : number;
};
const compare = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = button.closest("table").tBodies[0];
    const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
    const rows = [...body.rows].map((row) => [value(row, head.cellIndex), row]);
    rows.sort((a, b) => direction * compare(a[0], b[0]));
    body.append(...rows.map((pair) => pair[1]));
  });
}
for (const figure of document.querySelectorAll("figure.overlay")) {
  const slider = figure.querySelector("input[type=range]"), slices = figure.querySelectorAll(".slice");
  const show = () => {
    slices.forEach((slice, number) => { slice.toggleAttribute("hidden", number !== slider.valueAsNumber); });
    const text = slices[slider.valueAsNumber].getAttribute("aria-label");
    slider.setAttribute("aria-valuetext", text);
    figure.querySelector("output").textContent = text;
  };
  slider.addEventListener("input", show);
  show();
  for (const box of figure.querySelectorAll("input[type=checkbox]")) {
    box.addEventListener("change", () => {
      for (const path of figure.querySelectorAll(`path[data-arm="${box.value}"]`)) path.toggleAttribute("hidden", !box.checked);
    });
  }
}
