// Arrow keys, Home and End choose one of n things of which the i-th is chosen now.
const arrows = (event, i, n, choose) => {
  const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: n - 1 }[event.key];
  if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  choose(Math.min(Math.max(to, 0), n - 1));
};

// The strip of grids becomes a viewer: a large picture, a slider, a play button.
for (const film of document.querySelectorAll(".film")) {
  const items = [...film.children];
  const make = (name, more) => Object.assign(document.createElement(name), more);
  const big = make("img", { className: items[0].querySelector("img").className });
  const label = make("output", {});
  const slider = make("input", { type: "range", min: 0, max: items.length - 1, step: 1 });
  const play = make("button", { type: "button", textContent: "Play" });
  const bar = make("div", { className: "bar" });
  const viewer = make("div", { className: "viewer" });
  let timer = 0;
  const show = (i) => {
    const img = items[i].querySelector("img");
    big.src = img.src;
    big.alt = img.alt;
    big.width = img.getAttribute("width");
    big.height = img.getAttribute("height");
    label.textContent = items[i].dataset.label;
    slider.value = i;
    slider.setAttribute("aria-valuetext", items[i].dataset.label);
    items.forEach((item, k) => item.classList.toggle("now", k === i));
    const left = items[i].offsetLeft - (film.clientWidth - items[i].clientWidth) / 2;
    film.scrollTo({ left });
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
  };
  play.onclick = () => {
    if (timer) return stop();
    if (+slider.value === items.length - 1) show(0);
    play.textContent = "Pause";
    timer = setInterval(() => {
      if (+slider.value === items.length - 1) return stop();
      show(+slider.value + 1);
    }, 350);
  };
  slider.oninput = () => (stop(), show(+slider.value));
  slider.setAttribute("aria-label", "Images seen");
  items.forEach((item, i) => (item.onclick = () => (stop(), show(i))));
  film.onkeydown = (event) => arrows(event, +slider.value, items.length, (i) => (stop(), show(i)));
  bar.append(play, slider, label);
  const stage = make("div", { className: "stage" });
  viewer.append(big, bar);
  film.before(stage);
  stage.append(viewer, film);
  film.classList.add("thumbs");
  show(items.length - 1);
}

// Pointing at a curve, or arrow keys on it, read its values.
for (const chart of document.querySelectorAll("svg.chart[data-end]")) {
  const { left, right, end, low, high, top, foot, log } = chart.dataset;
  const path = chart.querySelector(".mean");
  const points = path.getAttribute("d").slice(1).split("L").map((p) => p.split(" ").map(Number));
  const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  const out = chart.parentNode.querySelector(".last");
  const usual = out.textContent;
  let now = points.length - 1;
  dot.setAttribute("r", 4);
  dot.setAttribute("class", "dot");
  const read = (i) => {
    const [x, y] = points[(now = i)];
    const part = (foot - y) / (foot - top);
    const raw = +low + part * (high - low);
    const value = log ? 10 ** raw : raw;
    const images = Math.round(((x - left) / (right - left)) * end);
    dot.setAttribute("cx", x);
    dot.setAttribute("cy", y);
    chart.append(dot);
    out.textContent = `${+value.toPrecision(4)} at ${images.toLocaleString("en")} images`;
  };
  chart.onpointermove = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY)
      .matrixTransform(chart.getScreenCTM().inverse()).x;
    const far = points.map(([x]) => Math.abs(x - at));
    read(far.indexOf(Math.min(...far)));
  };
  chart.tabIndex = 0;
  out.setAttribute("role", "status");
  chart.onkeydown = (event) => arrows(event, now, points.length, read);
  chart.onpointerleave = chart.onblur = () => (dot.remove(), (out.textContent = usual));
}
