// Choosing an axis shows it and moves the points; their places along every axis are in the page.
for (const plane of document.querySelectorAll(".plane")) {
  const svg = plane.querySelector("svg");
  const [left, right, foot, top] = JSON.parse(svg.dataset.box);
  const choices = [...plane.querySelectorAll("select")];
  const hint = plane.querySelector("p");
  const spots = [...plane.querySelectorAll(".spot")];
  const places = spots.map((spot) => JSON.parse(spot.dataset.at));
  const draw = () => {
    const [a, b] = choices.map((choice) => +choice.value);
    for (const axis of svg.querySelectorAll("[data-axis]"))
      axis.classList.toggle("away", ![`across ${a}`, `up ${b}`].includes(axis.dataset.axis));
    let lacking = 0;
    const taken = []; // places of labels: points in one place would hide each other's
    spots.forEach((spot, i) => {
      const there = places[i][a] && places[i][b];
      spot.classList.toggle("away", !there);
      if (!there) return lacking++;
      const [x1, x, x2] = places[i][a].map((v) => left + v * (right - left));
      const [y1, y, y2] = places[i][b].map((v) => foot + v * (top - foot));
      const put = (name, values) =>
        Object.entries(values).forEach(([k, v]) => spot.querySelector(name).setAttribute(k, v));
      put("path", { d: `M${x1} ${y}H${x2}M${x} ${y1}V${y2}` });
      put("circle", { cx: x, cy: y });
      const free = (at) => !taken.some(([u, v]) => Math.abs(u - x) < 22 && Math.abs(v - at) < 13);
      const at = [0, 1, 2, 3, 4, 5].map((k) => y - 7 + 13 * k).find(free) ?? y - 7;
      taken.push([x, at]);
      put("text", { x: x + 8, y: at });
    });
    const names = choices.map((choice) => choice.selectedOptions[0].text);
    svg.setAttribute("aria-label", `${names[1]} against ${names[0]}; the numbers stand in the table`);
    hint.textContent = lacking ? `not shown, for lack of one of the two: ${lacking}` : "";
  };
  choices.forEach((choice) => (choice.onchange = draw));
  plane.querySelector(".choices").hidden = false;
  draw(); // a reloaded page keeps what was chosen
}

// Pointing at a chart, or arrow keys on it, read every curve there.
for (const chart of document.querySelectorAll("svg.chart[data-end]")) {
  const { left, right, end, low, high, top, foot, log } = chart.dataset;
  const figure = chart.closest("figure");
  const curves = new Map();
  for (const path of chart.querySelectorAll(".line")) {
    const points = path.getAttribute("d").slice(1).split("L").map((p) => p.split(" ").map(Number));
    const label = path.dataset.label;
    curves.set(label, [...(curves.get(label) ?? []), points]);
  }
  const stops = [...new Set([...curves.values()].flat(2).map(([x]) => x))].sort((a, b) => a - b);
  const outs = [...figure.querySelectorAll(".last")];
  const usual = outs.map((out) => out.textContent);
  const place = figure.querySelector(".place");
  const rule = document.createElementNS("http://www.w3.org/2000/svg", "path");
  rule.setAttribute("class", "cursor");
  let now = stops.length - 1;
  const value = (y) => {
    const v = +low + ((foot - y) / (foot - top)) * (high - low);
    return log ? 10 ** v : v;
  };
  const height = (points, at) => {
    const k = points.findIndex(([x]) => x >= at);
    if (k < 0 || points[0][0] > at) return null;
    const [[x1, y1], [x2, y2]] = [points[Math.max(k - 1, 0)], points[k]];
    return x2 > x1 ? y1 + ((at - x1) / (x2 - x1)) * (y2 - y1) : y2;
  };
  const read = (i) => {
    const at = stops[(now = i)];
    const images = Math.round(((at - left) / (right - left)) * end);
    rule.setAttribute("d", `M${at} ${top}V${foot}`);
    chart.append(rule);
    place.textContent = `at ${images.toLocaleString("en")} images`;
    for (const out of outs) {
      const there = curves.get(out.dataset.label).map((points) => height(points, at));
      const known = there.filter((y) => y !== null).map(value);
      const mean = known.reduce((sum, v) => sum + v, 0) / known.length;
      out.textContent = known.length ? +mean.toPrecision(4) : "-";
    }
  };
  chart.onpointermove = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY)
      .matrixTransform(chart.getScreenCTM().inverse()).x;
    const far = stops.map((x) => Math.abs(x - at));
    read(far.indexOf(Math.min(...far)));
  };
  chart.tabIndex = 0;
  chart.onkeydown = (event) => {
    const last = stops.length - 1;
    const to = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last }[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    read(Math.min(last, Math.max(0, to)));
  };
  chart.onpointerleave = chart.onblur = () => {
    rule.remove();
    place.textContent = "";
    outs.forEach((out, i) => (out.textContent = usual[i]));
  };
}
