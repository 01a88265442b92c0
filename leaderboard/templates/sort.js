"use strict";
const table = document.getElementById("runs");
if (table) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column, number) => {
    const cell = row.cells[column];
    return number ? Number(cell.dataset.value) : cell.textContent.trim();
  };
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const number = head.dataset.kind === "number";
      const was = head.getAttribute("aria-sort");
      const down = was ? was === "ascending" : number;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [value(a, column, number), value(b, column, number)];
        const order = number ? x - y : x.localeCompare(y, undefined, { numeric: true });
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}
