"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const figures = [...document.querySelectorAll(".micrograph")];
  const pictures = figures.map((figure) => figure.querySelector("svg"));
  const views = data.micrographs.map((one) => ({ x: 0, y: 0, w: one.width, h: one.height }));
  const corrections = new Map(); // "micrograph:x:y" -> {micrograph, x, y, kind}
  let current = 0;
  let threshold = 0;
  let saved = true;

  const make = (parent, name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    parent.append(made);
    return made;
  };
  const colour = (score) =>
    data.palette[Math.min(data.palette.length - 1, Math.floor(score * data.palette.length))];

  // Circles, the best last and so on top; picks[m][i] belongs to candidate i.
  const picks = data.micrographs.map((one, m) => {
    const group = pictures[m].querySelector(".picks");
    const made = [];
    for (let i = one.score.length - 1; i >= 0; i--) {
      const pick = make(group, "g", { class: "off" });
      const place = { cx: one.x[i], cy: one.y[i], r: one.diameter / 2 };
      make(pick, "circle", { ...place, class: "rim" });
      make(pick, "circle", { ...place, stroke: colour(one.score[i]) });
      made[i] = pick;
    }
    return made;
  });
  const drawn = picks.map(() => 0); // of each micrograph, how many circles are seen

  function cut(level) {
    threshold = data.levels.at[level];
    data.micrographs.forEach((one, m) => {
      let count = one.score.findIndex((score) => score < threshold);
      if (count < 0) count = one.score.length;
      for (let i = Math.min(count, drawn[m]); i < Math.max(count, drawn[m]); i++)
        picks[m][i].classList.toggle("off", i >= count);
      drawn[m] = count;
      figures[m].querySelector(".count").textContent = `${count} picks`;
    });
    const share = data.levels.false[level];
    const found = data.levels.picks[level];
    const wrong = !data.calibrated
      ? "expected false: unknown, since the scores are not calibrated"
      : share === null ? "none to be false" : `expected false: ${(100 * share).toFixed(1)} %`;
    element("at").textContent = threshold;
    element("threshold").setAttribute("aria-valuetext", `${threshold}, ${found} picks, ${wrong}`);
    element("said").textContent =
      `${found} picks on ${data.read} micrographs, ${(found / data.read).toFixed(1)} each; ${wrong}`;
    element("command").textContent = data.command.replace("{}", threshold);
  }

  function show(index) {
    current = (index + figures.length) % figures.length;
    figures.forEach((figure, m) => figure.classList.toggle("current", m === current));
    element("which").value = current;
  }

  // Zoom keeps the place `at`, in pixels of the micrograph, where it is on the screen.
  function zoom(factor, at) {
    const view = views[current];
    const one = data.micrographs[current];
    const place = at || { x: view.x + view.w / 2, y: view.y + view.h / 2 };
    const width = Math.min(one.width, Math.max(one.width / 40, view.w / factor));
    const scale = width / view.w;
    move(place.x + (view.x - place.x) * scale, place.y + (view.y - place.y) * scale, width, view.h * scale);
  }
  function move(x, y, w, h) {
    const one = data.micrographs[current];
    const view = views[current];
    Object.assign(view, { w, h });
    view.x = Math.min(Math.max(x, 0), one.width - w);
    view.y = Math.min(Math.max(y, 0), one.height - h);
    pictures[current].setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
    pictures[current].style.touchAction = w < one.width ? "none" : "";
  }
  function whole() {
    const one = data.micrographs[current];
    move(0, 0, one.width, one.height);
  }
  function place(event) {
    const matrix = pictures[current].getScreenCTM().inverse();
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
  }

  const key = (m, x, y) => `${m}:${x}:${y}`;
  function correct(m, x, y, kind) {
    const near = 0.3 * data.micrographs[m].diameter; // within it gen_data.py wants one kind
    for (const [other, one] of corrections)
      if (kind && one.micrograph === m && Math.hypot(one.x - x, one.y - y) <= near) corrections.delete(other);
    if (kind) corrections.set(key(m, x, y), { micrograph: m, x, y, kind });
    else corrections.delete(key(m, x, y));
    saved = corrections.size === 0;
    mark(m);
    boxes.forEach(tell);
    const count = (which) => [...corrections.values()].filter((one) => one.kind === which).length;
    element("corrected").textContent = corrections.size
      ? `${count("good")} particles, ${count("bad")} that are none.` : "No corrections yet.";
    element("save").disabled = corrections.size === 0;
  }
  function mark(m) {
    const group = pictures[m].querySelector(".marks");
    group.replaceChildren();
    const r = data.micrographs[m].diameter / 2;
    for (const one of corrections.values()) {
      if (one.micrograph !== m) continue;
      const { x, y } = one;
      if (one.kind === "good") make(group, "circle", { cx: x, cy: y, r: 1.15 * r, class: "good" });
      else make(group, "path", { d: `M${x - r},${y - r}l${2 * r},${2 * r}m0,${-2 * r}l${-2 * r},${2 * r}`, class: "bad" });
    }
  }
  // A click: on what was corrected takes that back, on a pick says it is none, elsewhere adds one.
  function click(at) {
    const one = data.micrographs[current];
    const near = (x, y) => Math.hypot(x - at.x, y - at.y) <= one.diameter / 2;
    for (const made of corrections.values())
      if (made.micrograph === current && near(made.x, made.y)) return correct(current, made.x, made.y, null);
    const nearest = (from, to) => {
      let best = -1;
      for (let i = from; i < to; i++)
        if (near(one.x[i], one.y[i]) && (best < 0 ||
          Math.hypot(one.x[i] - at.x, one.y[i] - at.y) < Math.hypot(one.x[best] - at.x, one.y[best] - at.y))) best = i;
      return best;
    };
    const pick = nearest(0, drawn[current]);
    if (pick >= 0) return correct(current, one.x[pick], one.y[pick], "bad");
    const hidden = nearest(drawn[current], one.score.length); // its place is better than a hand's
    const [x, y] = hidden >= 0 ? [one.x[hidden], one.y[hidden]] : [at.x, at.y].map((n) => Math.round(100 * n) / 100);
    if (x >= 0 && y >= 0 && x < one.width && y < one.height) correct(current, x, y, "good");
  }

  const boxes = [...document.querySelectorAll(".box")];
  const boxed = (box) => {
    const one = data.micrographs[box.dataset.micrograph];
    return [Number(box.dataset.micrograph), one.x[box.dataset.pick], one.y[box.dataset.pick]];
  };
  function tell(box) {
    const made = corrections.get(key(...boxed(box)));
    const kind = made ? made.kind : "";
    box.className = `box ${kind}`;
    box.querySelector(".state").textContent = { good: "particle", bad: "none", "": "" }[kind];
    box.setAttribute("aria-label", `Score ${box.querySelector("span").textContent}, ` +
      ({ good: "a particle", bad: "none", "": "not said" }[kind]));
  }
  boxes.forEach((box, index) => {
    tell(box);
    box.addEventListener("click", () => {
      const made = corrections.get(key(...boxed(box)));
      correct(...boxed(box), { "": "good", good: "bad", bad: null }[made ? made.kind : ""]);
    });
    box.addEventListener("keydown", (event) => {
      const kind = { g: "good", b: "bad", u: null }[event.key];
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (kind !== undefined) correct(...boxed(box), kind);
      if (kind === undefined && !step) return;
      event.preventDefault();
      event.stopPropagation();
      const next = boxes[index + (step || 1)];
      if (next) next.focus();
    });
  });

  function save() {
    const rows = [...corrections.values()].map((one) =>
      `${data.micrographs[one.micrograph].cell} ${one.x.toFixed(2)} ${one.y.toFixed(2)} ${one.kind}`);
    const labels = ["rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "apbcKind"];
    const text = ["", "# version 30001", "", "data_corrections", "", "loop_",
      ...labels.map((label, i) => `_${label} #${i + 1}`), ...rows, "", ""].join("\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = element("save").dataset.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    saved = true;
  }
  async function copy() {
    try {
      await navigator.clipboard.writeText(element("command").textContent);
    } catch { // a page from a disk may not be allowed to
      getSelection().selectAllChildren(element("command"));
      document.execCommand("copy");
    }
    element("copy").textContent = "Copied";
    setTimeout(() => { element("copy").textContent = "Copy"; }, 1500);
  }
  const correcting = () => figures.forEach((f) => f.classList.toggle("correcting", element("correct").checked));
  const circles = () => document.body.classList.toggle("hidden", !element("circles").checked);
  const toggle = (id, then) => { element(id).checked = !element(id).checked; then(); };

  element("threshold").addEventListener("input", (event) => cut(event.target.value));
  const start = element("threshold").defaultValue;
  const reset = () => { element("threshold").value = start; cut(start); };
  element("reset").addEventListener("click", reset);
  element("before").addEventListener("click", () => show(current - 1));
  element("after").addEventListener("click", () => show(current + 1));
  element("which").addEventListener("change", (event) => show(Number(event.target.value)));
  element("in").addEventListener("click", () => zoom(1.5));
  element("out").addEventListener("click", () => zoom(1 / 1.5));
  element("whole").addEventListener("click", whole);
  element("circles").addEventListener("change", circles);
  element("correct").addEventListener("change", correcting);
  element("save").addEventListener("click", save);
  element("copy").addEventListener("click", copy);
  addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });

  pictures.forEach((picture) => {
    let from = null; // where a pointer went down, and the view it then saw
    let moved = false;
    picture.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX, y: event.clientY, view: { ...views[current] } };
      moved = false;
    });
    picture.addEventListener("pointermove", (event) => {
      if (!from || !event.buttons) return;
      const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
      if (!moved && Math.hypot(dx, dy) < 5) return;
      moved = true;
      const scale = 1 / picture.getScreenCTM().a;
      move(from.view.x - dx * scale, from.view.y - dy * scale, from.view.w, from.view.h);
    });
    picture.addEventListener("pointerup", (event) => {
      if (from && !moved && element("correct").checked) click(place(event));
      from = null;
    });
    picture.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.25 : 0.8, place(event));
    }, { passive: false });
  });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
    const view = views[current];
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (arrow && event.target.closest("svg")) {
      event.preventDefault();
      return move(view.x + arrow[0] * view.w / 8, view.y + arrow[1] * view.h / 8, view.w, view.h);
    }
    const does = {
      n: () => show(current + 1), p: () => show(current - 1), "+": () => zoom(1.5), "=": () => zoom(1.5),
      "-": () => zoom(1 / 1.5), 0: whole, h: () => toggle("circles", circles), c: () => toggle("correct", correcting),
    }[event.key];
    if (does) does();
  });

  element("ramp").style.background = `linear-gradient(to right, ${data.palette.join(", ")})`;
  reset(); // a reloaded page may have kept another value
  circles();
  correcting();
  if (figures.length) show(0);
})();
