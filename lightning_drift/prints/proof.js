(() => {
  const { items, pictures } = JSON.parse(byId("proof").textContent);
  const stage = byId("stage"), view = byId("view"), sheet = byId("sheet"), divider = byId("divider"), loupe = byId("loupe");
  const layers = { left: byId("over"), right: byId("under") };
  const GLASS = 190; // pixels of one side of the magnifier
  const state = { item: 0, left: 0, right: 0, cells: false, at: 0.5, zoom: "fit", glass: 0, point: null };
  const item = () => items[state.item];
  const cellName = (cell) => `control_scale ${item().sheet.rows[cell.row]}, s_cfg ${item().sheet.columns[cell.column]}`;
  // What can be compared: the views of a print, or the cells of its proof sheet.
  const views = () => (state.cells
    ? item().sheet.cells.map((cell) => ({ name: cellName(cell), picture: cell.picture, size: cell.size, part: [0, 0, ...cell.size] }))
    : item().views);
  const size = () => (state.cells ? views()[state.right].size : item().size);
  const image = (side) => layers[side].firstElementChild;

  // -- the two pictures, one above the other --------------------------------------------------------------

  const room = () => Math.min(innerHeight * (innerWidth > 820 ? 0.7 : 0.62), 1000);
  const scale = () => {
    const [width, height] = size();
    if (state.zoom === "full") return 1 / devicePixelRatio;
    const fitting = Math.min(view.clientWidth / width, room() / height);
    return fitting > 2 ? Math.floor(fitting) : fitting; // whole pixels where they are seen
  };
  const place = () => {
    const [width, height] = size();
    const shown = scale();
    sheet.style.width = `${width * shown}px`;
    sheet.style.height = `${height * shown}px`;
    view.style.height = `${state.zoom === "fit" ? height * shown : Math.min(room(), height * shown + view.offsetHeight - view.clientHeight)}px`;
    for (const side of ["left", "right"]) {
      const { part, size: own } = views()[state[side]];
      const across = part[2] - part[0], down = part[3] - part[1];
      Object.assign(image(side).style, {
        width: `${(100 * own[0]) / across}%`, height: `${(100 * own[1]) / down}%`,
        left: `${(-100 * part[0]) / across}%`, top: `${(-100 * part[1]) / down}%`,
      });
      image(side).classList.toggle("px", (width * shown * devicePixelRatio) / across >= 1.5);
    }
    divide();
  };
  // The part of the pictures that is seen, from left to right, in the window's pixels.
  const seen = () => {
    const [outer, inner] = [view, sheet].map((each) => each.getBoundingClientRect());
    return [Math.max(outer.left, inner.left), Math.min(outer.left + view.clientWidth, inner.right), inner.left];
  };
  const divide = () => {
    const [from, to, origin] = seen();
    const x = from + state.at * (to - from);
    layers.left.style.clipPath = `inset(0 calc(100% - ${x - origin}px) 0 0)`;
    divider.style.left = `${x - stage.getBoundingClientRect().left - stage.clientLeft}px`;
    divider.setAttribute("aria-valuenow", Math.round(state.at * 100));
    divider.setAttribute("aria-valuetext", `${Math.round(state.at * 100)} %, ${views()[state.left].name} left of it`);
    magnify();
  };
  const move = (to) => { state.at = Math.min(1, Math.max(0, to)); divide(); };
  const follow = (e) => { const [from, to] = seen(); move((e.clientX - from) / (to - from)); };
  const load = () => {
    const shown = views();
    for (const side of ["left", "right"]) {
      const each = shown[state[side]];
      if (image(side).getAttribute("src") !== pictures[each.picture]) image(side).src = pictures[each.picture];
      image(side).alt = `${item().name}, ${each.name}`;
      byId(`${side}-name`).textContent = each.name;
    }
    place();
  };
  for (const side of ["left", "right"]) image(side).addEventListener("load", () => magnify());
  // The other side takes what this one had, so that two are always compared.
  const choose = (side, index) => {
    const other = side === "left" ? "right" : "left";
    if (state[other] === index) state[other] = state[side];
    state[side] = index;
    mark();
    load();
  };

  let dragged = null;
  divider.addEventListener("pointerdown", (e) => { divider.setPointerCapture(e.pointerId); dragged = "line"; e.preventDefault(); divider.focus(); });
  divider.addEventListener("pointermove", (e) => { if (dragged) follow(e); });
  view.addEventListener("pointerdown", (e) => {
    if (e.button !== 0 || (state.zoom === "full" && e.pointerType !== "mouse")) return; // a finger scrolls
    if (e.offsetX > view.clientWidth && e.target === view) return; // the scroll bar
    dragged = state.zoom === "full" ? [e.clientX + view.scrollLeft, e.clientY + view.scrollTop] : "line";
    view.setPointerCapture(e.pointerId);
    if (dragged === "line" && !state.glass) follow(e);
  });
  view.addEventListener("pointermove", (e) => {
    if (Array.isArray(dragged)) view.scrollTo(dragged[0] - e.clientX, dragged[1] - e.clientY);
    else if (dragged === "line" && !state.glass) follow(e);
  });
  for (const each of [divider, view]) for (const kind of ["pointerup", "pointercancel"]) each.addEventListener(kind, () => { dragged = null; });
  view.addEventListener("scroll", divide, { passive: true });
  new ResizeObserver(place).observe(stage);
  addEventListener("resize", place);

  // -- the magnifier ---------------------------------------------------------------------------------------

  const point = (e) => {
    const box = sheet.getBoundingClientRect();
    const [x, y] = [(e.clientX - box.left) / box.width, (e.clientY - box.top) / box.height];
    state.point = x < 0 || y < 0 || x > 1 || y > 1 ? null : [x, y];
    magnify();
  };
  stage.addEventListener("pointermove", point);
  stage.addEventListener("pointerleave", () => { state.point = null; magnify(); });
  const magnify = () => {
    loupe.hidden = !state.glass || !state.point;
    if (loupe.hidden) return;
    const [x, y] = state.point;
    const density = devicePixelRatio;
    const span = GLASS / state.glass; // pixels of the print in the magnifier
    ["left", "right"].forEach((side, index) => {
      const figure = loupe.children[index], canvas = figure.firstElementChild, each = views()[state[side]];
      canvas.width = canvas.height = GLASS * density;
      canvas.style.width = canvas.style.height = `${GLASS}px`;
      figure.lastElementChild.textContent = each.name;
      if (!image(side).naturalWidth) return;
      const [left, top, right, bottom] = each.part;
      const [wide, high] = size();
      const across = (span * (right - left)) / wide, down = (span * (bottom - top)) / high;
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(image(side), left + x * (right - left) - across / 2, top + y * (bottom - top) - down / 2, across, down, 0, 0, canvas.width, canvas.height);
    });
    const [outer, box] = [stage, sheet].map((each) => each.getBoundingClientRect());
    const [px, py] = [box.left - outer.left + x * box.width, box.top - outer.top + y * box.height];
    const [width, height] = [loupe.offsetWidth, loupe.offsetHeight];
    const besides = (at, own, room) => Math.max(4, at + 24 + own > room ? Math.min(at - 24 - own, room - own - 4) : at + 24);
    loupe.style.left = `${besides(px, width, outer.width)}px`;
    loupe.style.top = `${besides(py, height, outer.height)}px`;
  };

  // -- controls ---------------------------------------------------------------------------------------------

  const segments = (id, options, chosen, act) => {
    const set = byId(id);
    set.querySelectorAll("label").forEach((each) => each.remove());
    options.forEach(([value, text]) => {
      const input = make("input", { type: "radio", name: id, value });
      input.checked = String(value) === String(chosen);
      input.addEventListener("change", () => act(value));
      set.append(make("label", {}, input, make("span", {}, text)));
    });
  };
  const mark = () => {
    for (const side of ["left", "right"]) {
      byId(side).hidden = state.cells;
      if (!state.cells) segments(side, item().views.map((each, index) => [index, each.name]), state[side], (index) => choose(side, index));
    }
    byId("picked").hidden = !state.cells;
    byId("picked").firstElementChild.textContent = state.cells && item().sheet.cells.length > 1 ? "Two cells of the proof sheet" : "The proof sheet's cell";
    byId("back").hidden = !item().views.length;
    document.querySelectorAll("#proofs td button").forEach((button) => {
      const index = Number(button.dataset.cell);
      button.setAttribute("aria-pressed", state.cells && index === state.right);
      button.toggleAttribute("data-side", state.cells && index === state.left);
    });
  };
  const zoom = (kind) => {
    state.zoom = kind;
    stage.classList.toggle("full", kind === "full");
    segments("zoom", [["fit", "Fit"], ["full", "Full size"]], kind, zoom);
    place();
    if (kind === "full") view.scrollTo((view.scrollWidth - view.clientWidth) / 2, (view.scrollHeight - view.clientHeight) / 2);
  };
  const glass = (times) => {
    state.glass = times;
    stage.classList.toggle("glass", times > 0);
    segments("glass", [[0, "Off"], [2, "2×"], [4, "4×"]], times, glass);
    magnify();
  };

  // -- proof sheets -----------------------------------------------------------------------------------------

  // The cell with the settings of the print itself.
  const own = () => {
    const { rows, columns, cells } = item().sheet, facts = Object.fromEntries(item().facts);
    return cells.findIndex(({ row, column }) => rows[row] === Number(facts["Control scale"]) && columns[column] === Number(facts["CFG scale"]));
  };
  const pick = (index) => {
    const { cells } = item().sheet;
    const other = [own(), 0, 1].find((each) => each >= 0 && each < cells.length && each !== index) ?? index;
    const before = !state.cells ? other : state.right === index ? state.left : state.right;
    Object.assign(state, { cells: true, left: before, right: index });
    const cell = cells[index], line = document.querySelector("#proofs .command");
    line.hidden = !cell.command;
    line.firstElementChild.textContent = `Print it in full with ${cellName(cell)}`;
    byId("cell-command").textContent = cell.command;
    mark();
    load();
  };
  const grid = () => {
    const found = item().sheet;
    byId("proofs").hidden = !found;
    document.querySelector("#proofs .command").hidden = true;
    if (!found) return;
    document.querySelector("#proofs .about").textContent = `${found.about}. Rows are control_scale: how closely the picture's own structure is followed. Columns are s_cfg: how strongly the model paints what it knows. Pick two cells to compare them.`;
    const table = document.querySelector("#proofs table");
    const head = make("tr", {}, make("th", {}, ""), ...found.columns.map((value) => make("th", { scope: "col" }, `s_cfg ${value}`)));
    table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...found.rows.map((value, row) => make("tr", {},
      make("th", { scope: "row" }, `control ${value}`),
      ...found.columns.map((_, column) => {
        const index = found.cells.findIndex((each) => each.row === row && each.column === column);
        if (index < 0) return make("td", {}, "");
        const cell = found.cells[index];
        const button = make("button", { type: "button", "data-cell": index, "aria-label": cellName(cell) },
          make("img", { src: pictures[cell.picture], alt: "", loading: "lazy", width: cell.size[0], height: cell.size[1] }));
        button.addEventListener("click", () => pick(index));
        return make("td", {}, button, ...(index === own() ? [make("p", {}, "the print's settings")] : []));
      })))));
  };
  byId("back").addEventListener("click", () => open(state.item));

  // -- the list of pictures ---------------------------------------------------------------------------------

  const open = (index) => {
    Object.assign(state, { item: index, cells: false, point: null });
    const count = item().views.length;
    state.right = count - 1;
    state.left = Math.min(Math.max(0, count - 2), Math.max(0, item().views.findIndex((each) => each.name === "Bicubic")));
    byId("name").textContent = item().name;
    document.querySelectorAll("#list button").forEach((button, place) => button.setAttribute("aria-current", place === index));
    document.querySelectorAll("#list button")[index]?.scrollIntoView({ block: "nearest", inline: "nearest" });
    grid();
    byId("commands").hidden = !item().commands.length;
    byId("commands").lastElementChild.replaceChildren(...item().commands.map(([what, text], place) => make("div", { class: "command" },
      make("span", {}, what), make("code", { id: `command-${place}`, tabindex: 0 }, text),
      make("button", { type: "button", "data-copy": `command-${place}` }, "Copy"))));
    byId("facts").replaceChildren(...item().facts.map(([name, text]) =>
      make("div", text.length > 40 ? { class: "long" } : {}, make("dt", {}, name), make("dd", {}, text))));
    if (!count) pick(item().sheet.cells.length - 1);
    mark();
    load();
  };
  byId("list").append(...items.map((each, index) => {
    const button = make("button", { type: "button" }, make("img", { src: each.small, alt: "", loading: "lazy" }), each.name);
    if (each.sheet && each.views.length) button.append(" ", make("i", { title: "has a proof sheet" }, "▦"));
    button.addEventListener("click", () => open(index));
    return button;
  }));
  document.querySelector(".room").classList.toggle("one", items.length === 1);

  document.addEventListener("keydown", (e) => {
    if (e.altKey || e.ctrlKey || e.metaKey || e.target.closest("input, code, .scroll")) return;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    const key = e.key.toLowerCase();
    if (step && e.target === view && state.glass) {
      const [x, y] = state.point ?? [0.5, 0.5], [width, height] = size();
      const by = e.shiftKey ? 40 : 8; // pixels of the print
      state.point = [Math.min(1, Math.max(0, x + (step[0] * by) / width)), Math.min(1, Math.max(0, y + (step[1] * by) / height))];
      magnify();
    } else if (step?.[0] && (e.target === divider || e.target === view || e.target === document.body)) move(state.at + step[0] * (e.shiftKey ? 0.1 : 0.02));
    else if (e.target === divider && (e.key === "Home" || e.key === "End")) move(e.key === "End" ? 1 : 0);
    else if (key === "f") zoom(state.zoom === "fit" ? "full" : "fit");
    else if (key === "m") glass(state.glass ? 0 : 4);
    else if (key === "n" || key === "p") open((state.item + (key === "n" ? 1 : items.length - 1)) % items.length);
    else return;
    e.preventDefault();
  });
  open(0);
  zoom("fit");
  glass(0);
})();
