"use strict";
// Tables sort by the column that is clicked; numbers by value, empty cells last.
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    const sort = () => {
      const up = head.getAttribute("aria-sort") === "descending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const isNumber = head.classList.contains("n");
      const value = row => {
        const text = row.cells[column].textContent.trim();
        return isNumber ? parseFloat(text) : text;
      };
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (isNumber && (Number.isNaN(x) || Number.isNaN(y))) return Number.isNaN(x) - Number.isNaN(y);
        const order = isNumber ? x - y : x.localeCompare(y);
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}
// A search field filters the table that follows it.
for (const field of document.querySelectorAll(".find input")) {
  const next = field.closest(".find").nextElementSibling;
  const rows = next.matches("canvas") ? [] : next.querySelectorAll("tbody tr");
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
// The matrix of many classes, a square of pixels for each cell.
for (const canvas of document.querySelectorAll("canvas.matrix")) {
  const { names, order, cells, videos } = JSON.parse(canvas.nextElementSibling.textContent);
  const field = canvas.previousElementSibling.querySelector("input");
  const told = canvas.previousElementSibling.querySelector("output");
  const place = new Array(names.length);
  order.forEach((name, at) => { place[name] = at; });
  const size = Math.max(2, Math.floor(1200 / names.length));
  canvas.width = canvas.height = size * names.length;
  const table = new Map(cells.map(([a, b, n]) => [a * names.length + b, n]));
  const draw = () => {
    const paint = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const [good, bad] = ["--good", "--bad"].map(name => style.getPropertyValue(name));
    const wanted = field.value.toLowerCase();
    paint.clearRect(0, 0, canvas.width, canvas.height);
    if (wanted) {
      paint.fillStyle = `rgba(${good}, .13)`;
      names.forEach((name, k) => {
        if (!name.toLowerCase().includes(wanted)) return;
        paint.fillRect(0, place[k] * size, canvas.width, size);
        paint.fillRect(place[k] * size, 0, size, canvas.height);
      });
    }
    for (const [a, b, n] of cells) {
      const share = n / Math.max(1, videos[a]);
      paint.fillStyle = `rgba(${a === b ? good : bad}, ${a === b ? .15 + .6 * share : .25 + .75 * share})`;
      paint.fillRect(place[b] * size, place[a] * size, size, size);
    }
  };
  canvas.addEventListener("mousemove", event => {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
      .map(at => order[Math.min(names.length - 1, Math.max(0, Math.floor(at * names.length)))]);
    const n = table.get(y * names.length + x) || 0;
    told.textContent = `${names[y]} taken for ${names[x]}: ${n} of ${videos[y]}`;
  });
  field.addEventListener("input", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}
