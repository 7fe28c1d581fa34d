// Arrow keys, Home and End choose one of n things of which the i-th is chosen now.
const arrows = (event, i, n, choose) => {
  const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: n - 1 }[event.key];
  if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  choose(Math.min(Math.max(to, 0), n - 1));
};

// The places of a drawn line: [[x, y], ...].
const points = (path) =>
  path.getAttribute("d").slice(1).split("L").map((p) => p.split(" ").map(Number));

// The images at an x, and the value at a y, of a chart whose data name its ends.
const imagesAt = ({ left, right, end }, x) =>
  `at ${Math.round(((x - left) / (right - left)) * end).toLocaleString("en")} images`;
const valueAt = ({ low, high, top, foot, log }, y) => {
  const value = +low + ((foot - y) / (foot - top)) * (high - low);
  return log ? 10 ** value : value;
};

// Pointing at a chart, or arrow keys on it, read the i-th of its places; leaving it ends that.
const readable = (chart, places, read, leave) => {
  let now = places.length - 1;
  const choose = (i) => read((now = i));
  chart.onpointermove = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY)
      .matrixTransform(chart.getScreenCTM().inverse()).x;
    const far = places.map((x) => Math.abs(x - at));
    choose(far.indexOf(Math.min(...far)));
  };
  chart.tabIndex = 0;
  chart.onkeydown = (event) => arrows(event, now, places.length, choose);
  chart.onpointerleave = chart.onblur = leave;
};
