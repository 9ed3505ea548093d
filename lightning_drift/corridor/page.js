(() => {
  const corridor = JSON.parse(byId("corridor").textContent);
  const { runs, steps, prompts, cells, pictures } = corridor;
  const at = { run: corridor.start[0], step: corridor.start[1] };
  let open = null; // the picture under the loupe: [prompt, seed]

  const cellAt = (run, step) => cells[run][step];
  const source = (run, step, prompt, seed) => {
    const index = cellAt(run, step).pictures[prompt]?.[seed];
    return index === undefined || index < 0 ? null : pictures[index];
  };
  const drawn = (run, step, prompt, seed) => cellAt(run, step).maps?.[prompt]?.[seed]; // a map
  let mapped = false;
  const name = (run, step) => (step === 0 ? "base model" : `${runs[run].label} × ${steps[step]}`);
  const promptTitle = (prompt) => prompt || "(empty prompt)";

  // -- pictures -----------------------------------------------------------------------------------------

  const slots = []; // one for every prompt and seed: its two buttons, made once
  const build = () => {
    const room = byId("pictures");
    room.append(make("div", { class: "heads" }, make("p", {}, "Base model"), make("p", { id: "now-name" })));
    const across = Math.min(4, Math.max(...prompts.map(({ seeds }) => seeds.length))); // one size for all rows
    prompts.forEach(({ text, seeds }, p) => {
      const strips = {};
      for (const side of ["base", "now"]) {
        strips[side] = make("div", { class: "seeds" });
        strips[side].style.setProperty("--across", across);
        strips[side].style.setProperty("--phone", across);
      }
      seeds.forEach((seed, s) => {
        const slot = { p, s, seed };
        for (const side of ["base", "now"]) {
          slot[side] = make("button", { type: "button", class: "px" });
          slot[side].addEventListener("click", () => look(p, s));
          strips[side].append(slot[side]);
        }
        slot.now.addEventListener("pointerenter", (e) => e.pointerType === "mouse" && swap(slot, true));
        slot.now.addEventListener("pointerleave", () => swap(slot, false));
        slots.push(slot);
      });
      room.append(make("section", { class: "row" }, make("h3", {}, promptTitle(text)), make("div", { class: "strips" },
        make("div", { class: "base", "data-name": "base" }, strips.base),
        make("div", { class: "now" }, strips.now))));
    });
  };
  const fill = (button, uri, alt, tag) => {
    if (!uri) {
      button.replaceChildren(make("span", { class: "gap", style: "display:block", role: "img", "aria-label": `${alt}: no picture` }));
      return;
    }
    let image = button.querySelector("img");
    if (!image) {
      image = make("img", { decoding: "sync" });
      button.replaceChildren(image, make("span", { class: "tag", "aria-hidden": "true" }));
    }
    if (image.getAttribute("src") !== uri) image.src = uri;
    image.alt = alt;
    button.querySelector(".tag").textContent = tag;
  };
  const swap = (slot, base) => {
    const step = base ? 0 : at.step;
    const alt = `${promptTitle(prompts[slot.p].text)}, seed ${slot.seed}, ${name(at.run, step)}`;
    fill(slot.now, source(at.run, step, slot.p, slot.s), alt, base ? "base" : `seed ${slot.seed}`);
    slot.now.classList.add("layers");
    cover(slot.now, mapped && !base && drawn(at.run, step, slot.p, slot.s));
  };
  const cover = (button, uri) => {
    button.querySelector(".map")?.remove();
    if (uri) button.append(make("img", { src: uri, alt: "", class: "map" }));
  };
  const showMaps = (on) => {
    if (!byId("maps")) return;
    mapped = on;
    byId("maps").setAttribute("aria-pressed", on);
    show();
  };
  const showBase = (base) => {
    document.body.classList.toggle("showing-base", base);
    slots.forEach((slot) => swap(slot, base));
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
  const show = () => {
    const cell = cellAt(at.run, at.step);
    document.querySelectorAll("table.map button").forEach((button) => {
      const own = Number(button.dataset.step) === at.step && (at.step === 0 || Number(button.dataset.run) === at.run);
      button.setAttribute("aria-pressed", own);
      if (own) reveal(button);
    });
    slots.forEach((slot) => {
      const alt = `${promptTitle(prompts[slot.p].text)}, seed ${slot.seed}, base model`;
      fill(slot.base, source(at.run, 0, slot.p, slot.s), alt, `seed ${slot.seed}`);
      swap(slot, false);
    });
    const where = name(at.run, at.step);
    byId("now-name").textContent = where;
    document.querySelectorAll(".now").forEach((strip) => strip.setAttribute("data-name", where));
    const verdict = byId("verdict");
    verdict.replaceChildren(make("p", { class: "where" }, where));
    if (at.step !== 0) {
      const line = make("p", {}, make("span", { class: `chip ${cell.zone || "no-zone"}` }, cell.zone || cell.state));
      if (cell.borderline) line.append(make("span", {}, `borderline ${cell.borderline}`));
      verdict.append(line);
    }
    if (cell.position !== null) {
      const dial = make("div", { class: "dial", role: "img", "aria-label": `position ${Math.round(cell.position)} of 100` });
      for (const zone of ["under-drifted", "dreaming", "forgetting", "cooked"]) dial.append(make("i", { class: zone }));
      dial.append(make("b", { style: `left:${Math.min(100, Math.max(0, cell.position))}%` }));
      verdict.append(dial);
    }
    if (cell.reason) verdict.append(make("p", { class: "reason" }, ...bold(cell.reason)));
    byId("here").replaceChildren(where, make("br"), make("span", { class: "faint" }, at.step ? cell.zone || cell.state : ""));
    try {
      history.replaceState(null, "", at.step ? `#${runs[at.run].name}/${steps[at.step]}` : "#base");
    } catch { /* a page inside another has no address of its own */ }
    if (open) fillLoupe();
  };
  const go = (run, step) => {
    at.run = Math.min(runs.length - 1, Math.max(0, run));
    at.step = Math.min(steps.length - 1, Math.max(0, step));
    show();
  };

  // -- the loupe ----------------------------------------------------------------------------------------

  const loupe = byId("loupe");
  const look = (p, s) => {
    open = [p, s];
    loupe.showModal();
    fillLoupe();
  };
  const fillLoupe = () => {
    const [p, s] = open;
    const title = `${promptTitle(prompts[p].text)}, seed ${prompts[p].seeds[s]}`;
    byId("loupe-title").textContent = title;
    for (const [id, step] of [["loupe-base", 0], ["loupe-now", at.step]]) {
      const uri = source(at.run, step, p, s);
      byId(id).className = "px";
      byId(id).alt = `${title}, ${name(at.run, step)}`;
      byId(id).hidden = !uri;
      if (uri) byId(id).src = uri;
    }
    const over = mapped && drawn(at.run, at.step, p, s);
    byId("loupe-map").hidden = !over;
    if (over) byId("loupe-map").src = over;
    const cell = cellAt(at.run, at.step);
    byId("loupe-where").textContent = at.step ? `${name(at.run, at.step)}: ${cell.zone || cell.state}` : "base model";
    const thumb = (run, step, text) => {
      const uri = source(run, step, p, s);
      const here = step === at.step && (step === 0 || run === at.run);
      const button = make("button", { type: "button", class: "px", "aria-pressed": here, "aria-label": name(run, step) });
      button.append(uri ? make("img", { src: uri, alt: "" }) : make("i", { class: "gap" }), make("span", {}, text));
      button.addEventListener("click", () => go(run, step));
      return button;
    };
    const group = (label, ...buttons) => make("div", { class: "group" }, make("p", {}, label), make("div", {}, ...buttons));
    byId("loupe-strip").replaceChildren(
      group("base", thumb(at.run, 0, "0")),
      ...runs.map((run, r) => group(run.label, ...steps.slice(1).map((step, i) => thumb(r, i + 1, `${step}`)))));
    byId("loupe-strip").querySelector("[aria-pressed=true]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  loupe.addEventListener("close", () => { open = null; });

  // -- hands --------------------------------------------------------------------------------------------

  document.querySelectorAll("table.map button").forEach((button) =>
    button.addEventListener("click", () => go(button.dataset.run === undefined ? at.run : Number(button.dataset.run), Number(button.dataset.step))));
  byId("maps")?.addEventListener("click", () => showMaps(!mapped));
  document.querySelectorAll("[data-go]").forEach((button) =>
    button.addEventListener("click", () => {
      const [run, step] = button.dataset.go.split(",").map(Number);
      go(at.run + run, at.step + step);
    }));
  document.addEventListener("keydown", (e) => {
    if (e.altKey || e.ctrlKey || e.metaKey || e.target.closest("summary, pre, code")) return;
    const near = open || e.target.closest(".map, .stage");
    if (e.key === "ArrowLeft") go(at.run, at.step - 1);
    else if (e.key === "ArrowRight") go(at.run, at.step + 1);
    else if (e.key === "ArrowUp" && near) go(at.run - 1, at.step);
    else if (e.key === "ArrowDown" && near) go(at.run + 1, at.step);
    else if (e.key.toLowerCase() === "m") showMaps(!mapped);
    else if (e.key.toLowerCase() === "b") { if (!e.repeat) showBase(true); }
    else return;
    e.preventDefault();
    const focused = document.activeElement;
    if (focused && focused.closest("table.map")) document.querySelector("table.map button[aria-pressed=true]")?.focus();
  });
  document.addEventListener("keyup", (e) => e.key.toLowerCase() === "b" && showBase(false));
  window.addEventListener("blur", () => showBase(false));

  const address = () => {
    const [run, step] = decodeURIComponent(location.hash.slice(1)).split("/");
    const r = runs.findIndex((each) => each.name === run);
    const s = steps.indexOf(Number(step));
    if (r >= 0 && s >= 0) [at.run, at.step] = [r, s];
    else if (run === "base") at.step = 0;
  };
  window.addEventListener("hashchange", () => { address(); show(); });
  build();
  address();
  show();
})();
