// Returns the faults of the page that is shown, as texts. The argument is the width of the view in pixels.
const width = arguments[0];
const faults = [];

function label(element) {
  return `'${element.textContent.trim().replace(/\s+/g, " ").slice(0, 40)}'`;
}

function isShown(element) {
  return element.checkVisibility({ opacityProperty: true, visibilityProperty: true, contentVisibilityAuto: true });
}

const texts = [...document.querySelectorAll("body *")].filter((element) =>
  !element.closest("script, style, .modebar, .skip") && isShown(element) &&
  [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim()));

if (document.documentElement.scrollWidth > width) {
  const wide = texts.filter((element) => element.getBoundingClientRect().right > width && !element.closest(".wide"));
  faults.push(`the page is ${document.documentElement.scrollWidth} px wide: ${wide.slice(0, 3).map(label)}`);
}

// Texts of a figure, or of the page outside figures, must not overlap by more than the antialiasing of a border.
function overlaps(a, b) {
  const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  return across > 3 && down > 5;
}

for (const figure of document.querySelectorAll(".figure")) {
  const boxes = texts.filter((element) => figure.contains(element) && element.matches("text") && !element.closest(".legend .legendtoggle"))
    .map((element) => ({ element, box: element.getBoundingClientRect() })).filter(({ box }) => box.width > 0);
  const bounds = figure.getBoundingClientRect();
  for (const { element, box } of boxes) {
    if (box.left < bounds.left - 2 || box.right > bounds.right + 2) faults.push(`${label(element)} is cut at the edge of its figure`);
  }
  boxes.forEach(({ element, box }, index) => {
    for (const other of boxes.slice(index + 1)) {
      if (overlaps(box, other.box)) faults.push(`${label(element)} overlaps ${label(other.element)}`);
    }
  });
  const marks = figure.querySelectorAll(".point, .points path, .js-line, .js-fill, image, .heatmaplayer image, .bars path, .boxlayer path");
  if (!marks.length) faults.push("a figure has no data");
}

// What a grid shows of a cell: the rest can be scrolled to.
function shownBox(element) {
  const box = element.getBoundingClientRect();
  const grid = element.closest(".wide.scrolls")?.getBoundingClientRect();
  if (!grid) return box;
  const [top, bottom] = [Math.max(box.top, grid.top), Math.min(box.bottom, grid.bottom)];
  return { left: box.left, right: box.right, top, bottom, height: bottom - top };
}

const blocks = texts.filter((element) => element.matches("h1, h2, p, td, th, dt, dd, nav a, button, label") && !element.closest(".figure"))
  .map((element) => ({ element, box: shownBox(element) })).filter(({ box }) => box.height > 0);
blocks.sort((a, b) => a.box.top - b.box.top);
blocks.forEach(({ element, box }, index) => {
  for (let next = index + 1; next < blocks.length && blocks[next].box.top < box.bottom; next++) {
    const other = blocks[next];
    const nested = element.contains(other.element) || other.element.contains(element);
    if (!nested && overlaps(box, other.box)) faults.push(`${label(element)} overlaps ${label(other.element)}`);
  }
});

function luminance([red, green, blue]) {
  const linear = [red, green, blue].map((value) => value / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}

const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
const paper = luminance(channels(getComputedStyle(document.body).backgroundColor));
for (const element of texts) {
  // Numbers inside the cells of a heat map stand on the cell's colour, which Plotly sees to.
  if (element.closest(".heatmap-label, .hoverlayer")) continue;
  const style = getComputedStyle(element);
  const colour = channels(element instanceof SVGElement ? style.fill : style.color);
  const ink = luminance(colour);
  const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  if (contrast < 4.5) faults.push(`${label(element)} has a contrast of ${contrast.toFixed(1)}`);
}
return [...new Set(faults)].slice(0, 20);
