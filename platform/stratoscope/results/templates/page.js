const dark = matchMedia("screen and (prefers-color-scheme: dark)");
const figures = [...document.querySelectorAll(".figure")];
const folds = [...document.querySelectorAll("details")];
// Colours of figures that depend on the background, as the Python side writes them, and what replaces them on a dark one.
const DARK = { "#1d2733": "#e6e9ed", "#ffffff": "#14191f", "#b8c4cf": "#5b6875", "#5b6875": "#a9b4bf", "#f1f4f7": "#1d242c", "#dce5ec": "#2b3540", "#ebf0f8": "#38424d" };
// Figures keep the width of the screen unless they are told that of the paper: A4 less its margins, at 96 dpi.
const PAPER_WIDTH = 680;
// The verdict and its picture end within this height, whatever the number of models and series.
const FIRST_SCREEN = 900;
const LEAST_PICTURE = 190;
const OPTIONS = { displaylogo: false, responsive: true, displayModeBar: innerWidth < 600 ? false : "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
let printing = false;
let library;

function loadPlotly() {
  library ??= (async () => {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  })();
  return library;
}

// A legend below the plot takes as many lines as its names need at this width, of some 7 pixels a character.
function addLegendSpace(layout, data, width) {
  const traces = data.filter((trace) => trace.name && trace.showlegend !== false);
  if (layout.showlegend === false || traces.length < 2) return;
  let [used, lines] = [0, 1];
  for (const trace of traces) {
    const parts = wrapped(trace.name.replace(/<br>/g, " "), width - 60);
    trace.name = parts.join("<br>");
    const needed = parts.length > 1 ? width : 50 + 7 * parts[0].replace(/<[^>]*>|&[^;]*;/g, "x").length;
    const begins = used && used + needed > width;
    lines += (begins ? 1 : 0) + parts.length - 1;
    used = begins ? needed : used + needed;
  }
  const space = 16 + 20 * lines;
  layout.height += space;
  layout.margin = { ...layout.margin, b: (layout.margin?.b ?? 50) + space };
}

// Titles of axes take as many lines as they need, of some 7.5 pixels a character.
function wrapped(text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (7.5 * longer.replace(/<[^>]*>|&[^;]*;/g, "x").length > width && lines.at(-1)) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}

// The width of the labels left of the plot, by which Plotly widens the margin.
function labelWidth(layout, data) {
  const labels = layout.yaxis?.ticktext ?? data.flatMap((trace) => (Array.isArray(trace.y) ? trace.y : []));
  const lines = labels.filter((label) => typeof label === "string").flatMap((label) => label.split("<br>"));
  return 16 + 7.5 * Math.max(0, ...lines.map((line) => line.length));
}

function wrapAxisTitles(layout, data, width) {
  const margin = { t: 20, b: 50, l: 60, r: 16, ...layout.margin };
  const plotWidth = width - margin.r - Math.max(margin.l, labelWidth(layout, data));
  for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key) && layout[key].title?.text)) {
    const length = name.startsWith("x") ? plotWidth : layout.height - margin.t - margin.b;
    const lines = wrapped(layout[name].title.text, length);
    layout[name].title.text = lines.join("<br>");
    const space = name.startsWith("x") ? 16 * (lines.length - 1) : 0;
    layout.height += space;
    margin.b += space;
  }
  layout.margin = margin;
}

function readFigure(element) {
  let text = element.querySelector("script[type='application/json']").textContent;
  const isDark = dark.matches && !printing;
  if (isDark) for (const [light, replacement] of Object.entries(DARK)) text = text.replaceAll(`"${light}"`, `"${replacement}"`);
  const { data, layout } = JSON.parse(text);
  layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
  layout.font = { ...layout.font, color: isDark ? DARK["#1d2733"] : "#1d2733" };
  for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
    layout[name] = { gridcolor: isDark ? "#2b3540" : "#e3e8ed", linecolor: isDark ? "#5b6875" : "#b8c4cf", zerolinecolor: isDark ? "#5b6875" : "#b8c4cf", ...layout[name] };
  }
  layout.modebar = { bgcolor: "rgba(0,0,0,0)" };
  layout.width = printing ? PAPER_WIDTH : undefined;
  layout.height ??= 340;
  const excess = addSpace(structuredClone(layout), structuredClone(data), element) - room(element);
  if (excess > 0) layout.height = Math.min(layout.height, Math.max(layout.meta?.least ?? LEAST_PICTURE, layout.height - excess));
  addSpace(layout, data, element);
  element.style.height = `${layout.height}px`;
  return { data, layout };
}

function addSpace(layout, data, element) {
  wrapAxisTitles(layout, data, layout.width ?? element.clientWidth);
  addLegendSpace(layout, data, layout.width ?? element.clientWidth);
  return layout.height;
}

// The height that the first screen leaves for a picture of the verdict.
function room(element) {
  if (printing || !element.closest("#verdict")) return Infinity;
  return FIRST_SCREEN - 16 - (element.getBoundingClientRect().top + scrollY);
}

// A long grid scrolls by itself on the first screen, and has all its rows on paper.
function fitGrids() {
  for (const grid of document.querySelectorAll("#verdict .wide")) {
    grid.style.maxHeight = printing ? "none" : `${Math.max(LEAST_PICTURE, room(grid))}px`;
    grid.classList.toggle("scrolls", grid.scrollHeight > grid.clientHeight + 1);
  }
}

async function draw(element) {
  try {
    await loadPlotly();
    const { data, layout } = readFigure(element);
    await Plotly.react(element, data, layout, OPTIONS);
  } catch (error) {
    element.insertAdjacentHTML("beforeend", "<p class=failed>This browser cannot draw the plot.</p>");
    console.error(error);
  }
}

const isVisible = (element) => !element.closest("details:not([open])");
const isDrawn = (element) => element.classList.contains("js-plotly-plot");
const idle = () => new Promise((resolve) => (window.requestIdleCallback ?? setTimeout)(resolve));

// Folded figures are drawn too, so that a printed page has them.
async function drawAll() {
  for (const element of figures) if (isVisible(element)) await draw(element);
  for (const element of figures) {
    if (isDrawn(element)) continue;
    await idle();
    await draw(element);
  }
  document.body.dataset.drawn = "true";
}

async function fitFigures(fold) {
  for (const element of fold.querySelectorAll(".js-plotly-plot")) if (isVisible(element)) await draw(element);
}

async function redraw() {
  fitGrids();
  for (const element of figures) if (isDrawn(element)) await draw(element);
}

function unfold(open) {
  for (const fold of folds) fold.open = open;
}

function showTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const fold = target && target.closest("details");
  if (fold) {
    fold.open = true;
    target.scrollIntoView();
  }
}

function sortKey(cell) {
  const text = cell ? cell.textContent.trim() : "";
  const number = /^[-+]?(\d[\d,]*)?\.?\d+(e[-+]?\d+)?/i.exec(text);
  return { text, number: number ? parseFloat(number[0].replaceAll(",", "")) : null };
}

function sortTable(header) {
  const table = header.closest("table");
  const column = header.cellIndex;
  const direction = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", direction);
  const keyed = [...table.tBodies[0].rows].map((row) => ({ row, key: sortKey(row.cells[column]) }));
  const sign = direction === "ascending" ? 1 : -1;
  keyed.sort(({ key: a }, { key: b }) => {
    // Empty cells come last in both directions.
    if (!a.text || !b.text) return !a.text - !b.text;
    if (a.number !== null && b.number !== null) return sign * (a.number - b.number);
    return sign * a.text.localeCompare(b.text);
  });
  table.tBodies[0].append(...keyed.map(({ row }) => row));
}

function tableAsCsv(table) {
  const quoted = (cell) => {
    const text = cell.textContent.trim();
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [...table.rows].filter((row) => !row.hidden).map((row) => [...row.cells].map(quoted).join(",")).join("\n") + "\n";
}

async function copyTable(button) {
  const text = tableAsCsv(button.closest(".table").querySelector("table"));
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages that are opened from a file have no clipboard interface in some browsers.
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy as CSV"; }, 2000);
}

for (const fold of folds) fold.addEventListener("toggle", () => fitFigures(fold));
for (const button of document.querySelectorAll(".sort")) button.addEventListener("click", () => sortTable(button.closest("th")));
for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copyTable(button));
for (const input of document.querySelectorAll(".filter input")) {
  const rows = input.closest(".table").querySelectorAll("tbody tr");
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
const toggle = document.getElementById("unfold");
toggle.addEventListener("click", () => {
  const open = toggle.getAttribute("aria-pressed") !== "true";
  toggle.setAttribute("aria-pressed", open);
  toggle.textContent = open ? "Fold all" : "Unfold all";
  unfold(open);
});
addEventListener("hashchange", showTarget);
dark.addEventListener("change", redraw);
let width = innerWidth;
let waiting;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  clearTimeout(waiting);
  waiting = setTimeout(redraw, 200);
});
let foldedBeforePrint = [];
addEventListener("beforeprint", () => {
  printing = true;
  fitGrids();
  foldedBeforePrint = folds.filter((fold) => !fold.open);
  unfold(true);
  for (const element of figures.filter(isDrawn)) {
    const { data, layout } = readFigure(element);
    Plotly.react(element, data, layout, OPTIONS);
  }
});
addEventListener("afterprint", () => {
  printing = false;
  for (const fold of foldedBeforePrint) fold.open = false;
  redraw();
});
fitGrids();
showTarget();
drawAll();
