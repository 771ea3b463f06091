// Draws the tables of the overview as charts. The tables stay: they say the same in numbers, and are all there is without
// this file.
"use strict";

const charts = [];

// read takes a chart's numbers out of its table: the times of the rows, and a series for each column. An empty cell is null.
function read(figure) {
  const rows = [...figure.querySelectorAll("tbody tr")];
  const data = [rows.map((row) => Date.parse(row.querySelector("time").dateTime) / 1000)];
  const columns = [...figure.querySelectorAll("thead th[data-key]")];
  columns.forEach((_, i) => data.push(rows.map((row) => {
    const text = row.querySelectorAll("td")[i].dataset.n;
    return text === "" ? null : Number(text);
  })));
  return { data, columns };
}

function draw(figure) {
  const { data, columns } = read(figure);
  const plot = figure.querySelector(".plot");
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = { stroke: color("--ink-2"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 } };
  plot.replaceChildren();
  return new uPlot({
    width: Math.max(plot.clientWidth, 200), height: 200, legend: { show: false }, tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
    scales: { y: { range: (_, low, high) => [0, Math.max(high, 1) * 1.05] } },
    axes: [axis, { ...axis, size: 56, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6] }],
    series: [{}, ...columns.map((th) => ({
      label: th.textContent, stroke: getComputedStyle(figure.querySelector(`.key.k-${th.dataset.key}`)).fill, width: 2, points: { show: data[0].length < 40, size: 4 },
    }))],
  }, data, plot);
}

for (const figure of document.querySelectorAll("figure.chart")) {
  figure.classList.add("drawn");
  charts.push({ figure, chart: draw(figure) });
}

// What is drawn follows the size of the window and the colours of the system.
addEventListener("resize", () => {
  for (const { figure, chart } of charts) chart.setSize({ width: Math.max(figure.querySelector(".plot").clientWidth, 200), height: 200 });
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const c of charts) {
    c.chart.destroy();
    c.chart = draw(c.figure);
  }
});
