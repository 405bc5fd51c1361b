"use strict";
// Clicking a header sorts its table by that column; clicking it again reverses the order.
// Cells are compared by their data-sort attribute or else their text, numerically if possible; unknown values come last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  const key = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  heads.forEach((head, column) => {
    head.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const rows = Array.from(body.rows);
      const unknown = (text) => text === "" || text === "–";
      rows.sort((one, other) => {
        const [a, b] = [key(one, column), key(other, column)];
        if (unknown(a) || unknown(b)) return unknown(a) - unknown(b);
        const [x, y] = [Number(a), Number(b)];
        return sign * (isNaN(x) || isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y);
      });
      body.append(...rows);
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    });
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
