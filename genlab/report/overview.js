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

// A rule across a chart that is read, and the value of every curve there in the legend.
for (const chart of document.querySelectorAll("svg.chart[data-end]")) {
  const figure = chart.closest("figure");
  const curves = new Map();
  for (const path of chart.querySelectorAll(".line")) {
    const label = path.dataset.label;
    curves.set(label, [...(curves.get(label) ?? []), points(path)]);
  }
  const stops = [...new Set([...curves.values()].flat(2).map(([x]) => x))].sort((a, b) => a - b);
  const outs = [...figure.querySelectorAll(".last")];
  const usual = outs.map((out) => out.textContent);
  const place = figure.querySelector(".place");
  const rule = document.createElementNS("http://www.w3.org/2000/svg", "path");
  rule.setAttribute("class", "cursor");
  const height = (line, at) => {
    const k = line.findIndex(([x]) => x >= at);
    if (k < 0 || line[0][0] > at) return null;
    const [[x1, y1], [x2, y2]] = [line[Math.max(k - 1, 0)], line[k]];
    return x2 > x1 ? y1 + ((at - x1) / (x2 - x1)) * (y2 - y1) : y2;
  };
  const read = (i) => {
    const at = stops[i];
    rule.setAttribute("d", `M${at} ${chart.dataset.top}V${chart.dataset.foot}`);
    chart.append(rule);
    place.textContent = imagesAt(chart.dataset, at);
    for (const out of outs) {
      const there = curves.get(out.dataset.label).map((line) => height(line, at));
      const known = there.filter((y) => y !== null).map((y) => valueAt(chart.dataset, y));
      const mean = known.reduce((sum, v) => sum + v, 0) / known.length;
      out.textContent = known.length ? +mean.toPrecision(4) : "-";
    }
  };
  readable(chart, stops, read, () => {
    rule.remove();
    place.textContent = "";
    outs.forEach((out, i) => (out.textContent = usual[i]));
  });
}
