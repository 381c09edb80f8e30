// Shows the values under the cursor in each chart.
for (const chart of document.querySelectorAll(".chart")) {
  const lines = JSON.parse(chart.dataset.lines), [low, high, left, right, view] = chart.dataset.x.split(" ").map(Number);
  const svg = chart.querySelector("svg"), cursor = chart.querySelector(".cursor"), out = chart.querySelector(".readout");
  svg.addEventListener("mousemove", (event) => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * view;
    const step = low + Math.min(1, Math.max(0, (at - left) / (right - left))) * (high - low);
    const near = (points) => points.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a);
    const found = lines.map(([name, points]) => [name, near(points)]), x = found[0][1][0];
    const place = left + (x - low) / (high - low) * (right - left);
    cursor.setAttribute("x1", place); cursor.setAttribute("x2", place); cursor.style.opacity = 0.6;
    out.textContent = "step " + x + ": " + found.map(([name, p]) => name + " " + p[1]).join(", ");
  });
  svg.addEventListener("mouseleave", () => { cursor.style.opacity = 0; out.textContent = ""; });
}
