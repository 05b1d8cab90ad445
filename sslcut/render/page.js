// Redraws every figure to the width it has and to the reader's theme; where this fails, the still drawing stays.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const specs = read("specs");
const themes = read("themes");
const dark = matchMedia("(prefers-color-scheme: dark)");
const views = new Map();

function fitted(spec, width) {
  const copy = structuredClone(spec);
  const { cell, axis, left, gap, count, least } = spec.usermeta;
  if (cell) {
    const fit = Math.floor((width - left + gap) / (cell + axis + gap));
    copy.columns = Math.max(1, Math.min(count, fit));
    const share = (width - left - (copy.columns - 1) * gap) / copy.columns - axis;
    copy.spec.width = Math.floor(Math.max(150, Math.min(share, 2.4 * cell)));
  } else {
    copy.width = Math.max(least, Math.min(width, spec.width + 150));
    copy.autosize = { type: "fit-x", contains: "padding" };
  }
  return copy;
}

async function draw(plot) {
  const name = plot.dataset.figure;
  const width = plot.clientWidth;
  const theme = dark.matches ? "dark" : "light";
  const config = structuredClone(themes[theme]);
  if (width < 560) Object.assign(config.legend, { columns: 2, labelLimit: 300 });
  const live = plot.querySelector(".live");
  // `ast`: expressions are interpreted, since the page forbids eval; logLevel 1: errors, not hints on empty intervals
  const given = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, logLevel: 1 };
  const options = { ...given, config, tooltip: { theme } };
  const show = async (spec) => {
    views.get(name)?.finalize();
    views.set(name, await window.vegaEmbed(live, spec, options));
    plot.classList.add("ready");
  };
  const spec = fitted(specs[name], width);
  await show(spec);
  const over = live.querySelector("svg").getBoundingClientRect().width - width;
  if (over <= 0 || !spec.spec) return;
  spec.spec.width -= Math.ceil(over / spec.columns) + 1; // labels at the edges took more room than was kept for them
  await show(spec);
}

async function drawAll() {
  for (const plot of document.querySelectorAll(".plot")) await draw(plot).catch((error) => console.error(error));
  document.documentElement.dataset.drawn = "yes";
}

let last = innerWidth;
let timer = 0;
addEventListener("resize", () => {
  if (innerWidth === last) return; // a phone's address bar changes the height alone
  last = innerWidth;
  clearTimeout(timer);
  timer = setTimeout(drawAll, 200);
});
dark.addEventListener("change", drawAll);
drawAll();
