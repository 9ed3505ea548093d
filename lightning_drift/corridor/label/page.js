(() => {
  const { zones, cells, labels: before } = JSON.parse(byId("labels").textContent);
  let labels = before;
  let at = Math.max(0, labels.indexOf(null));
  let busy = false;
  let over = false;
  let base = null; // the corridor whose pictures are shown
  let now = null; // the cell's
  let slots = []; // a pair of buttons for every prompt and seed

  // -- what the command says ----------------------------------------------------------------------------

  const tell = (text, wrong = false) => {
    byId("note").textContent = text;
    byId("note").classList.toggle("wrong", wrong);
  };
  const ask = async (place, content = null) => {
    let answer;
    try {
      const send = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) };
      answer = await fetch(place, content === null ? {} : send);
    } catch {
      throw new Error("The command has ended. Start it again to go on; what was said is kept.");
    }
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.error);
    return said;
  };
  const known = new Map();
  const once = (place) => {
    if (!known.has(place)) known.set(place, ask(place));
    known.get(place).catch(() => known.delete(place));
    return known.get(place);
  };

  // -- pictures -----------------------------------------------------------------------------------------

  const fill = (slot, uri, alt) => {
    if (!uri) slot.replaceChildren(make("span", { class: "gap", role: "img", "aria-label": `${alt}: no picture` }));
    else slot.replaceChildren(make("img", { src: uri, alt, decoding: "sync" }));
  };
  const build = (corridor) => {
    slots = [];
    byId("photos").replaceChildren(...corridor.photos.map((uri, i) => make("img", { src: uri, alt: `photo ${i + 1}` })));
    byId("photos").classList.toggle("sheet", corridor.photos.length === 1);
    const across = Math.min(4, Math.max(1, ...corridor.base.map((row) => row.length))); // one size for all rows
    const heads = make("div", { class: "heads" }, make("p", {}, "base model"), make("p", {}, "this cell"));
    byId("pictures").replaceChildren(heads, ...corridor.prompts.map((prompt, p) => {
      const strips = ["base", "now"].map((side) => {
        const strip = make("div", { class: "seeds", style: `--across:${across}` });
        corridor.base[p].forEach((uri, s) => {
          const place = make("div", {});
          strip.append(place);
          const alt = `${prompt || "(empty prompt)"}, picture ${s + 1}, base model`;
          if (side === "base") fill(place, uri, alt);
          else slots.push({ place, p, s, base: uri, alt, prompt });
        });
        return make("div", { class: side, "data-name": side === "base" ? "base model" : "this cell" }, strip);
      });
      return make("section", { class: "row" }, make("h3", {}, prompt || "(empty prompt)"), make("div", { class: "strips" }, ...strips));
    }));
    const first = byId("pictures").querySelector("img");
    if (first) first.decode().then(() => byId("pictures").classList.toggle("small", first.naturalWidth <= 128)).catch(() => {});
  };
  const draw = (showsBase) => {
    document.body.classList.toggle("showing-base", showsBase);
    if (now) slots.forEach(({ place, p, s, base, alt, prompt }) =>
      fill(place, showsBase ? base : now.pictures[p]?.[s], showsBase ? alt : `${prompt || "(empty prompt)"}, picture ${s + 1}, this cell`));
  };

  // -- the cell -----------------------------------------------------------------------------------------

  const marks = cells.map((_, i) => {
    const button = make("button", { type: "button" }, `${i + 1}`);
    button.addEventListener("click", () => go(i));
    byId("cells").append(button);
    return button;
  });
  const mark = () => {
    marks.forEach((button, i) => {
      if (labels[i]) button.className = labels[i];
      else button.removeAttribute("class");
      if (i === at) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
      button.setAttribute("aria-label", `cell ${i + 1}: ${labels[i] || "not labelled"}`);
    });
    document.querySelectorAll("[data-zone]").forEach((button) => button.setAttribute("aria-pressed", button.dataset.zone === labels[at]));
    const said = labels.filter(Boolean).length;
    byId("back").disabled = at === 0;
    byId("on").disabled = at === cells.length - 1;
    byId("finish").disabled = said === 0;
    byId("finish").classList.toggle("ready", said === cells.length);
    return `Cell ${at + 1} of ${cells.length}, ${said} labelled`;
  };
  const go = async (cell) => {
    if (over) return;
    at = Math.min(cells.length - 1, Math.max(0, cell));
    tell(mark());
    document.body.classList.add("waiting");
    const mine = at;
    try {
      const [corridor, pictures] = await Promise.all([once(`corridor/${cells[mine]}`), once(`cell/${mine}`)]);
      if (mine !== at) return;
      if (corridor !== base) build(corridor);
      [base, now] = [corridor, pictures];
      draw(false);
      document.body.classList.remove("waiting");
      if (mine + 1 < cells.length) once(`cell/${mine + 1}`).catch(() => {});
    } catch (error) {
      tell(error.message, true);
    }
  };
  const say = async (zone) => {
    if (busy || over || document.body.classList.contains("waiting")) return;
    busy = true;
    try {
      labels = (await ask("label", { cell: at, zone })).labels;
      const after = labels.indexOf(null, at + 1);
      const next = after >= 0 ? after : labels.indexOf(null);
      if (zone === null) tell(mark());
      else if (next < 0) tell(`${mark()}: all are. Change any, or find the thresholds.`);
      else await go(next);
    } catch (error) {
      tell(error.message, true);
    }
    busy = false;
  };
  const finish = async () => {
    if (busy || over) return;
    busy = true;
    tell("Looking for the thresholds …");
    try {
      const { sentences } = await ask("finish", {});
      over = true;
      byId("outcome").replaceChildren(...sentences.map((sentence) => make("p", {}, sentence)));
      for (const id of ["stage", "say", "cells"]) byId(id).hidden = true;
      byId("outcome").hidden = false;
    } catch (error) {
      tell(error.message, true);
    }
    busy = false;
  };

  // -- hands --------------------------------------------------------------------------------------------

  document.querySelectorAll("[data-zone]").forEach((button) => button.addEventListener("click", () => say(button.dataset.zone)));
  byId("back").addEventListener("click", () => go(at - 1));
  byId("on").addEventListener("click", () => go(at + 1));
  byId("finish").addEventListener("click", finish);
  document.addEventListener("keydown", (e) => {
    if (e.altKey || e.ctrlKey || e.metaKey || over) return;
    const zone = zones[Number(e.key) - 1];
    if (e.key === "ArrowLeft") go(at - 1);
    else if (e.key === "ArrowRight") go(at + 1);
    else if (e.key.toLowerCase() === "b") { if (!e.repeat) draw(true); }
    else if (zone && !e.repeat) say(zone);
    else if (e.key === "0" && !e.repeat) say(null);
    else return;
    e.preventDefault();
  });
  document.addEventListener("keyup", (e) => e.key.toLowerCase() === "b" && draw(false));
  window.addEventListener("blur", () => draw(false));
  byId("pictures").addEventListener("pointerdown", (e) => e.target.closest(".now") && draw(true));
  for (const end of ["pointerup", "pointercancel"]) window.addEventListener(end, () => draw(false));
  go(at);
})();
