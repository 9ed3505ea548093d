// The page of a corridor over the HTML of body.html, once a document. `update` takes data of the same shape, after
// cells were added and their HTML was replaced: the cell, the comparison, the loupe and the maps stay.
function corridorPage(data) {
  let { runs, steps, prompts, cells, pictures, pixel_art: small } = data;
  const at = { run: data.start[0], step: data.start[1] };
  let compared = ""; // the name of the run at the left; empty is the base model
  let open = null; // the picture under the loupe: [prompt, seed]
  let loupe = null; // the dialog that was opened, which may have been replaced since
  let mapped = false;
  let holding = false; // the key that shows the base
  let over = null; // the slot under the mouse, which shows the base too

  const cellAt = (run, step) => cells[run][step];
  const source = (run, step, prompt, seed) => {
    const index = cellAt(run, step).pictures[prompt]?.[seed];
    return index === undefined || index < 0 ? null : pictures[index];
  };
  const drawn = (run, step, prompt, seed) => mapped && cellAt(run, step).maps?.[prompt]?.[seed]; // a map
  const name = (run, step) => (step === 0 ? "base model" : `${runs[run].label} × ${steps[step]}`);
  const besideAt = () => { // the run and step at the left; a run is not compared with itself
    const run = runs.findIndex((each) => each.name === compared);
    return run < 0 || run === at.run ? [at.run, 0] : [run, at.step];
  };
  const promptTitle = (prompt) => prompt || "(empty prompt)";

  // -- pictures -----------------------------------------------------------------------------------------

  const slider = make("input", { type: "range", id: "step", min: 0, step: 1 });
  const ticks = make("span", { class: "ticks", "aria-hidden": "true" }); // the zones of the steps, below the slider
  const reached = make("output", { for: "step" });
  const select = make("select", { id: "compared" });
  const stepBeside = make("span"); // of the run that the select names
  const baseName = make("p", { class: "beside" }, "Base model");
  const choose = make("p", { class: "beside choose" }, make("label", { for: "compared" }, "compare with"), select, stepBeside);
  const nowName = make("p");
  const heads = make("div", { class: "heads" },
    make("div", { class: "steps" }, make("label", { for: "step" }, "Steps"), make("div", { class: "track" }, ticks, slider), reached),
    baseName, choose, nowName);
  const rows = make("div");
  let slots = []; // one for every prompt and seed: its two buttons
  let offered = ""; // the runs that the select offers
  let built = ""; // the prompts that the slots are of
  const offer = () => {
    [baseName.hidden, choose.hidden] = [runs.length > 1, runs.length < 2];
    const wanted = JSON.stringify(runs);
    if (wanted === offered) return;
    offered = wanted;
    select.replaceChildren(make("option", { value: "" }, "base model"), ...runs.map((run) => make("option", { value: run.name }, run.label)));
  };
  const build = () => {
    if (heads.parentNode !== byId("pictures")) byId("pictures").replaceChildren(heads, rows);
    document.body.classList.toggle("small-pictures", small);
    offer();
    const wanted = JSON.stringify(prompts);
    if (wanted === built) return;
    built = wanted;
    slots = [];
    over = null;
    const across = Math.min(4, Math.max(...prompts.map(({ seeds }) => seeds.length))); // one size for all rows
    rows.replaceChildren(...prompts.map(({ text, seeds }, p) => {
      const strips = {};
      for (const side of ["beside", "now"]) {
        strips[side] = make("div", { class: "seeds" });
        strips[side].style.setProperty("--across", across);
      }
      seeds.forEach((seed, s) => {
        const slot = { p, s, seed };
        for (const side of ["beside", "now"]) {
          slot[side] = make("button", { type: "button", class: "px layers" });
          slot[side].addEventListener("click", () => look(p, s));
          strips[side].append(slot[side]);
        }
        slot.now.addEventListener("pointerenter", (e) => { if (e.pointerType === "mouse") over = slot; swap(slot); });
        slot.now.addEventListener("pointerleave", () => { over = null; swap(slot); });
        slots.push(slot);
      });
      return make("section", { class: "row" }, make("h3", {}, promptTitle(text)), make("div", { class: "strips" },
        ...["beside", "now"].map((side) => make("div", { class: side }, strips[side]))));
    }));
  };
  const slide = () => {
    slider.max = steps.length - 1;
    slider.value = at.step;
    slider.setAttribute("aria-valuetext", name(at.run, at.step));
    slider.parentNode.style.setProperty("--count", steps.length);
    ticks.replaceChildren(...steps.map((_, s) => make("i", { class: cellAt(at.run, s).zone || "no-zone" })));
    reached.textContent = steps[at.step];
  };
  const fill = (button, run, step, { p, s, seed }, tag) => {
    const uri = source(run, step, p, s);
    const alt = `${promptTitle(prompts[p].text)}, seed ${seed}, ${name(run, step)}`;
    if (!uri) {
      button.replaceChildren(make("span", { class: "gap", style: "display:block", role: "img", "aria-label": `${alt}: no picture` }));
      return;
    }
    let image = button.querySelector("img:not(.map)");
    if (!image) {
      image = make("img", { decoding: "sync" });
      button.replaceChildren(image, make("span", { class: "tag", "aria-hidden": "true" }));
    }
    if (image.getAttribute("src") !== uri) image.src = uri;
    image.alt = alt;
    button.querySelector(".tag").textContent = tag;
    cover(button, drawn(run, step, p, s));
  };
  const cover = (button, uri) => {
    const map = button.querySelector(".map");
    if (uri && map) map.setAttribute("src", uri);
    else if (uri) button.append(make("img", { src: uri, alt: "", class: "map" }));
    else map?.remove();
  };
  const swap = (slot) => {
    const base = holding || over === slot;
    fill(slot.now, at.run, base ? 0 : at.step, slot, base ? "base" : `seed ${slot.seed}`);
  };
  const showMaps = (on) => {
    if (!byId("maps")) return;
    mapped = on;
    show();
  };
  const showBase = (base) => {
    if (base === holding) return;
    holding = base;
    document.body.classList.toggle("showing-base", base);
    slots.forEach(swap);
    if (open) fillLoupe();
  };

  // -- the cell -----------------------------------------------------------------------------------------

  const bold = (text) => text.split("**").map((part, i) => (i % 2 ? make("strong", {}, part) : part));
  const reveal = (button) => { // scrolls the map alone, not the page
    const scroller = button.closest(".scroll");
    const [tile, view] = [button, scroller].map((element) => element.getBoundingClientRect());
    const rest = tile.width / 2; // of the tile beyond it
    const left = view.left + document.querySelector("table.map tbody th").offsetWidth;
    if (tile.right > view.right) scroller.scrollLeft += tile.right - view.right + rest;
    else if (tile.left < left) scroller.scrollLeft -= left - tile.left + rest;
  };
  const press = () => {
    document.querySelectorAll("table.map button").forEach((button) => {
      const own = Number(button.dataset.step) === at.step && (at.step === 0 || Number(button.dataset.run) === at.run);
      const before = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", own);
      if (own && !before) reveal(button);
    });
    byId("maps")?.setAttribute("aria-pressed", mapped);
  };
  const tell = () => {
    const cell = cellAt(at.run, at.step);
    const said = make("div", {}, make("p", { class: "where" }, name(at.run, at.step)));
    if (at.step !== 0) {
      const line = make("p", {}, make("span", { class: `chip ${cell.zone || "no-zone"}` }, cell.zone || cell.state));
      if (cell.borderline) line.append(make("span", {}, `borderline ${cell.borderline}`));
      said.append(line);
    }
    if (cell.position !== null) {
      const dial = make("div", { class: "dial", role: "img", "aria-label": `position ${Math.round(cell.position)} of 100` });
      for (const zone of ["under-drifted", "dreaming", "forgetting", "cooked"]) dial.append(make("i", { class: zone }));
      dial.append(make("b", { style: `left:${Math.min(100, Math.max(0, cell.position))}%` }));
      said.append(dial);
    }
    if (cell.reason) said.append(make("p", { class: "reason" }, ...bold(cell.reason)));
    // What is the same is not said again: the verdict is read out as it changes.
    if (said.innerHTML !== byId("verdict").innerHTML) byId("verdict").replaceChildren(...said.childNodes);
    byId("commands").hidden = !Object.keys(cell.commands).length;
    byId("commands").querySelectorAll("code").forEach((code) => { // the same elements, which may have the focus
      const command = cell.commands[code.id.replace("cell-", "")];
      code.parentNode.hidden = !command;
      if (code.textContent !== (command || "")) code.textContent = command || "";
    });
    byId("here").replaceChildren(name(at.run, at.step), make("br"), make("span", { class: "faint" }, at.step ? cell.zone || cell.state : ""));
  };
  const show = () => {
    press();
    slide();
    tell();
    slots.forEach((slot) => {
      fill(slot.beside, ...besideAt(), slot, `seed ${slot.seed}`);
      swap(slot);
    });
    const [run] = besideAt();
    select.value = run === at.run ? "" : compared;
    [...select.options].forEach((option) => { option.disabled = option.value === runs[at.run].name; });
    stepBeside.textContent = run === at.run ? "" : `× ${steps[at.step]}`;
    nowName.textContent = name(at.run, at.step);
    for (const [side, shown] of [["beside", besideAt()], ["now", [at.run, at.step]]])
      rows.querySelectorAll(`.${side}`).forEach((strip) => strip.setAttribute("data-name", name(...shown)));
    try {
      history.replaceState(null, "", at.step ? `#${encodeURIComponent(runs[at.run].name)}/${steps[at.step]}` : "#base");
    } catch { /* a page inside another has no address of its own, and a name that is no text makes none */ }
    if (open) fillLoupe();
  };
  const go = (run, step) => {
    at.run = Math.min(runs.length - 1, Math.max(0, run));
    at.step = Math.min(steps.length - 1, Math.max(0, step));
    show();
  };

  // -- the loupe ----------------------------------------------------------------------------------------

  const raise = () => {
    loupe = byId("loupe");
    if (!loupe.open) loupe.showModal();
  };
  const look = (p, s) => {
    open = [p, s];
    raise();
    fillLoupe();
  };
  const fillLoupe = () => {
    const [p, s] = open;
    const title = `${promptTitle(prompts[p].text)}, seed ${prompts[p].seeds[s]}`;
    byId("loupe-title").textContent = title;
    for (const [side, run, step] of [["beside", ...besideAt()], ["now", at.run, holding ? 0 : at.step]]) {
      const image = byId(`loupe-${side}`);
      for (const [layer, uri] of [[image, source(run, step, p, s)], [byId(`loupe-${side}-map`), drawn(run, step, p, s)]]) {
        layer.hidden = !uri;
        if (uri && layer.getAttribute("src") !== uri) layer.src = uri;
      }
      image.alt = `${title}, ${name(run, step)}`;
      const cell = cellAt(run, step);
      byId(`loupe-${side}-name`).textContent = step ? `${name(run, step)}: ${cell.zone || cell.state}` : "base model";
    }
    const thumb = (run, step, text) => {
      const uri = source(run, step, p, s);
      const here = step === at.step && (step === 0 || run === at.run);
      const button = make("button", { type: "button", class: "px", "aria-pressed": here, "aria-label": name(run, step) });
      button.append(uri ? make("img", { loading: uri.startsWith("data:") ? "eager" : "lazy", src: uri, alt: "" }) : make("i", { class: "gap" }), make("span", {}, text));
      button.addEventListener("click", () => go(run, step));
      return button;
    };
    const group = (label, ...buttons) => make("div", { class: "group" }, make("p", {}, label), make("div", {}, ...buttons));
    byId("loupe-strip").replaceChildren(
      group("base", thumb(at.run, 0, "0")),
      ...runs.map((run, r) => group(run.label, ...steps.slice(1).map((step, i) => thumb(r, i + 1, `${step}`)))));
    byId("loupe-strip").querySelector("[aria-pressed=true]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  // The event does not bubble, and comes late: the loupe may have been opened again.
  document.addEventListener("close", (e) => { if (e.target === loupe && !loupe.open) open = null; }, true);

  // -- hands --------------------------------------------------------------------------------------------

  document.addEventListener("click", (e) => { // by delegation: what is clicked may have been replaced
    const button = e.target.closest("table.map button, [data-go], #maps");
    if (!button) return;
    const { run, step, go: by } = button.dataset;
    if (button.id === "maps") showMaps(!mapped);
    else if (by) go(...by.split(",").map((each, i) => Number(each) + (i ? at.step : at.run)));
    else go(run === undefined ? at.run : Number(run), Number(step));
  });
  select.addEventListener("change", () => { compared = select.value; show(); });
  slider.addEventListener("input", () => go(at.run, slider.valueAsNumber));
  document.addEventListener("keydown", (e) => {
    if (e.altKey || e.ctrlKey || e.metaKey || e.target.closest("summary, pre, code")) return;
    if (e.target === select && e.key.startsWith("Arrow")) return;
    const near = open || (e.target.closest(".map, .stage") && e.target !== slider); // which has its own up and down
    if (e.key === "ArrowLeft") go(at.run, at.step - 1);
    else if (e.key === "ArrowRight") go(at.run, at.step + 1);
    else if (e.key === "ArrowUp" && near) go(at.run - 1, at.step);
    else if (e.key === "ArrowDown" && near) go(at.run + 1, at.step);
    else if (e.key.toLowerCase() === "m") showMaps(!mapped);
    else if (e.key.toLowerCase() === "b") showBase(true);
    else return;
    e.preventDefault();
    if (document.activeElement?.closest("table.map")) document.querySelector("table.map button[aria-pressed=true]")?.focus();
  });
  document.addEventListener("keyup", (e) => e.key.toLowerCase() === "b" && showBase(false));
  window.addEventListener("blur", () => showBase(false));
  let onMap = false; // the focus was there, should its button go
  document.addEventListener("focusin", (e) => { onMap = Boolean(e.target.closest("table.map")); });
  document.addEventListener("pointerdown", (e) => { onMap &&= Boolean(e.target.closest("table.map")); });

  const address = () => {
    let said;
    try {
      said = decodeURIComponent(location.hash.slice(1)).split("/");
    } catch { return; } // no address of a cell
    const r = runs.findIndex((each) => each.name === said[0]);
    const s = steps.indexOf(Number(said[1]));
    if (r >= 0 && s >= 0) [at.run, at.step] = [r, s];
    else if (said[0] === "base") at.step = 0;
  };
  window.addEventListener("hashchange", () => { address(); show(); });

  const update = (given) => {
    const [run, step] = [runs[at.run].name, steps[at.step]];
    if (!loupe?.open) open = null; // closed, and the event has yet to come
    const [prompt, seed] = open ? [prompts[open[0]].text, prompts[open[0]].seeds[open[1]]] : [];
    ({ runs, steps, prompts, cells, pictures, pixel_art: small } = given);
    [at.run, at.step] = [runs.findIndex((each) => each.name === run), steps.indexOf(step)];
    if (at.run < 0 || at.step < 0) [at.run, at.step] = given.start;
    if (open) {
      const p = prompts.findIndex((each) => each.text === prompt);
      const s = p < 0 ? -1 : prompts[p].seeds.indexOf(seed);
      open = s < 0 ? null : [p, s];
      if (!open) byId("loupe").close(); // does nothing to one that came closed
      else raise();
    }
    build();
    show();
    if (onMap && document.activeElement === document.body)
      document.querySelector("table.map button[aria-pressed=true]")?.focus({ preventScroll: true });
  };
  build();
  address();
  show();
  return { update };
}
