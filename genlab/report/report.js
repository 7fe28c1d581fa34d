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

// A dot on the curve that is read, and its value in the caption.
for (const chart of document.querySelectorAll("svg.chart[data-end]")) {
  const line = points(chart.querySelector(".mean"));
  const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  const out = chart.parentNode.querySelector(".last");
  const usual = out.textContent;
  dot.setAttribute("r", 4);
  dot.setAttribute("class", "dot");
  out.setAttribute("role", "status");
  const read = (i) => {
    const [x, y] = line[i];
    dot.setAttribute("cx", x);
    dot.setAttribute("cy", y);
    chart.append(dot);
    out.textContent = `${+valueAt(chart.dataset, y).toPrecision(4)} ${imagesAt(chart.dataset, x)}`;
  };
  readable(chart, line.map(([x]) => x), read, () => (dot.remove(), (out.textContent = usual)));
}
