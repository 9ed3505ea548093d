(() => {
  const index = JSON.parse(byId("index").textContent);
  const { parameters, measures, varied, facts } = index;
  const CHUNK = 90; // cards that are made at a time, as one scrolls
  const BOXES = 60; // values that are offered to tick
  const count = index.file.length;
  const short = { guidance_scale: "guidance", num_inference_steps: "steps", clip_t: "CLIP-T", delta_e: "ΔE" };
  const words = (name) => short[name] ?? name.replaceAll("_", " ");
  const parameter = Object.fromEntries(parameters.map((each) => [each.name, each]));
  const measure = Object.fromEntries(measures.map((each) => [each.name, each]));
  const value = (name, row) => {
    const column = parameter[name];
    return column.rows[row] < 0 ? undefined : column.values[column.rows[row]];
  };
  const valueText = (given, name = "prompt") => {
    if (given !== undefined && String(given).trim() !== "") return String(given);
    return given !== undefined && name === "prompt" ? "(empty)" : "(none)";
  };
  const rounded = (found) => (found === null || found === undefined ? "-" : Math.abs(found) >= 10 ? found.toFixed(1) : found.toFixed(3));
  const shown = varied.filter((name) => !["prompt", "product", "group"].includes(name));
  const lower = parameter.prompt.values.map((prompt) => prompt.toLowerCase());

  // -- pins, kept by the browser for this page -----------------------------------------------------------

  const store = `lightning-drift sweep ${location.pathname}${location.search}`;
  let pins = new Set();
  try { pins = new Set(JSON.parse(localStorage.getItem(store) || "[]")); } catch { /* no storage: for this visit only */ }
  const pin = (row) => {
    const name = index.names[row];
    if (!pins.delete(name)) pins.add(name);
    try { localStorage.setItem(store, JSON.stringify([...pins])); } catch { /* likewise */ }
    document.querySelectorAll(`.card[data-row="${row}"] .pin`).forEach((button) => mark(button, row));
    tell();
  };
  const mark = (button, row) => {
    const on = pins.has(index.names[row]);
    button.textContent = on ? "★" : "☆";
    button.setAttribute("aria-pressed", on);
    button.setAttribute("aria-label", on ? "Unpin" : "Pin");
  };

  // -- which rows, in which order ------------------------------------------------------------------------

  const state = { sort: measures[0]?.name ?? varied[0] ?? "prompt", down: measures.length > 0, pinned: false, words: "" };
  const ticked = new Map(); // parameter -> positions of its values that pass
  const ranges = new Map(); // measure -> [from, to]
  let rows = [];
  const passes = (row) => {
    if (state.pinned && !pins.has(index.names[row])) return false;
    if (state.words && !state.words.every((word) => lower[parameter.prompt.rows[row]].includes(word))) return false;
    for (const [name, wanted] of ticked) if (!wanted.has(parameter[name].rows[row])) return false;
    for (const [name, [from, to]] of ranges) {
      const found = measure[name].values[row];
      if (found === null || found < from || found > to) return false;
    }
    return true;
  };
  const select = () => {
    rows = [];
    for (let row = 0; row < count; row++) if (passes(row)) rows.push(row);
    const keys = measure[state.sort]?.values ?? parameter[state.sort].rows;
    const sign = state.down ? -1 : 1;
    rows.sort((a, b) => {
      const [one, other] = [keys[a], keys[b]];
      if (one === null || other === null) return (one === null) - (other === null) || a - b;
      return sign * (one - other) || a - b;
    });
    byId("grid").replaceChildren();
    more();
    tell();
  };
  const tell = () => {
    byId("count").textContent = `${rows.length.toLocaleString("en")} of ${count.toLocaleString("en")} picture${count === 1 ? "" : "s"}`;
    byId("pinned").textContent = `Pinned ${pins.size}`;
    byId("pinned").setAttribute("aria-pressed", state.pinned);
    byId("copy-pins").hidden = pins.size === 0;
    byId("direction").textContent = state.down ? "↓" : "↑";
    byId("direction").setAttribute("aria-label", state.down ? "Largest first" : "Smallest first");
    byId("none").hidden = rows.length > 0;
  };

  // -- cards ---------------------------------------------------------------------------------------------

  const small = (file) => index.small[file] ?? file;
  const fileName = (path) => path.split("/").pop();
  const checkpoints = parameter.checkpoint.values;
  const fileNamesDiffer = new Set(checkpoints.map(fileName)).size === checkpoints.length;
  const brief = (name, row) => {
    const text = valueText(value(name, row), name);
    return name === "checkpoint" && fileNamesDiffer ? fileName(text) : text;
  };
  const what = (row) => shown.map((name) => `${words(name)} ${brief(name, row)}`).join(" · ");
  const picture = (file, alt, kind) =>
    make("img", { src: small(file), alt, loading: "lazy", decoding: "async", width: index.size[0], height: index.size[1], class: kind });
  const mapped = (row) => byId("map").getAttribute("aria-pressed") === "true" && index.map_file[row];
  const layers = (row) => {
    const found = make("span", { class: "layers" }, picture(index.file[row], "", "px"));
    if (mapped(row)) found.append(make("img", { src: index.map_file[row], alt: "", loading: "lazy", class: "map" }));
    return found;
  };
  const card = (row) => {
    const prompt = valueText(value("prompt", row));
    const open = make("button", { type: "button", class: "open", "aria-label": `${prompt}, ${what(row)}` });
    const base = index.base_file[row];
    if (base && byId("grid").classList.contains("paired")) {
      open.classList.add("two");
      open.append(picture(base, "base", "px beside"));
    }
    open.append(layers(row));
    open.addEventListener("click", () => look(row));
    const star = make("button", { type: "button", class: "pin" });
    mark(star, row);
    star.addEventListener("click", () => pin(row));
    const found = make("article", { class: "card", "data-row": row }, open, star, make("p", { class: "prompt" }, prompt));
    if (shown.length) found.append(make("p", { class: "what" }, what(row)));
    if (measure[state.sort]) found.append(make("p", { class: "value" }, `${words(state.sort)} ${rounded(measure[state.sort].values[row])}`));
    return found;
  };
  const more = () => {
    const grid = byId("grid");
    const from = grid.childElementCount;
    if (from < rows.length) grid.append(...rows.slice(from, from + CHUNK).map(card));
  };
  const near = () => byId("more").getBoundingClientRect().top < innerHeight + 1200;
  new IntersectionObserver(() => { while (near() && byId("grid").childElementCount < rows.length) more(); }, { rootMargin: "1200px" })
    .observe(byId("more"));
  addEventListener("scroll", () => near() && more(), { passive: true });

  // -- the loupe -----------------------------------------------------------------------------------------

  const loupe = byId("loupe");
  let at = -1; // the row under the loupe
  const look = (row) => {
    at = row;
    const base = index.base_file[row];
    byId("loupe-title").textContent = valueText(value("prompt", row));
    for (const [id, link, file] of [["loupe-base", "base-link", base], ["loupe-now", "now-link", index.file[row]]]) {
      if (!file) continue;
      byId(id).src = file;
      byId(id).alt = `${valueText(value("prompt", row))}, ${id === "loupe-base" ? "base model" : what(row)}`;
      byId(link).href = file;
    }
    const over = mapped(row);
    byId("loupe-map").hidden = !over;
    if (over) byId("loupe-map").src = over;
    document.querySelector(".pair").classList.toggle("alone", !base);
    byId("loupe-where").textContent = what(row) || "the picture";
    const line = (name, text, about = "") => make("div", { title: about }, make("dt", {}, words(name)), make("dd", {}, text));
    byId("facts").replaceChildren(
      ...measures.map((each) => line(each.name, rounded(each.values[row]), each.about)),
      ...parameters.filter((each) => each.rows[row] >= 0 && each.name !== "prompt").map((each) => line(each.name, valueText(value(each.name, row), each.name))));
    if (facts) byId("make").textContent = again(row);
    byId("print").textContent = printed([row]);
    mark(byId("loupe-pin"), row);
    if (!loupe.open) loupe.showModal();
  };
  const go = (by) => {
    const next = rows[rows.indexOf(at) + by];
    if (next !== undefined) look(next);
  };
  byId("before").addEventListener("click", () => go(-1));
  byId("after").addEventListener("click", () => go(1));
  byId("loupe-pin").addEventListener("click", () => { pin(at); mark(byId("loupe-pin"), at); });
  loupe.addEventListener("close", () => state.pinned && select());
  document.addEventListener("keydown", (e) => {
    if (!loupe.open || e.altKey || e.ctrlKey || e.metaKey || e.target.closest("code")) return;
    if (e.key === "ArrowLeft") go(-1);
    else if (e.key === "ArrowRight") go(1);
    else if (e.key.toLowerCase() === "p") byId("loupe-pin").click();
    else if (e.key.toLowerCase() === "m") byId("map").click();
    else return;
    e.preventDefault();
  });

  // -- commands ------------------------------------------------------------------------------------------

  // Control characters are written out: a terminal would take some of them, pasted, for keys.
  const control = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/;
  const written = (c) => (control.test(c) || c === "'" || c === "\\" ? `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}` : c);
  const quoted = (text) => {
    if (/^[\w@%+=:,./-]+$/.test(text)) return text;
    return control.test(text) ? `$'${[...text].map(written).join("")}'` : `'${text.replaceAll("'", `'"'"'`)}'`;
  };
  const option = (name, text) => `--${name}${text.startsWith("-") ? "=" : " "}${quoted(text)}`;
  // As a list wherever the command line might read something else into a prompt than its words.
  const asPrompt = (text) => (/^\p{L}[\p{L}\d ,.'-]*$/u.test(text) && !/\.(txt|ya?ml)$|^(null|true|false|none|yes|no|on|off|inf|nan)$/i.test(text) ? text : JSON.stringify([text]));
  const again = (row) => {
    const [drift, sampling] = [value("drift", row), value("sampling_drift", row)];
    const options = [["model.pipeline", value("checkpoint", row)]];
    if (facts.base) options.push(["model.base", facts.base]);
    if (drift !== 1) options.push(["model.drift", drift]);
    if (sampling !== 1) options.push(["model.sampling_drift", sampling]);
    if (index.map_file[row]) options.push(["model.drift_map", true]);
    options.push(["model.guidance_scale", value("guidance_scale", row)], ["model.num_inference_steps", value("num_inference_steps", row)]);
    if (facts.negative_prompt) options.push(["model.negative_prompt", facts.negative_prompt]);
    for (const name of ["height", "width"]) if (facts[name]) options.push([`model.${name}`, facts[name]]);
    if (facts.generator_device !== "cpu") options.push(["model.generator_device", facts.generator_device]);
    if (facts.dtype !== "auto") options.push(["model.dtype", facts.dtype]);
    options.push(["data.prompts", asPrompt(value("prompt", row))], ["data.seeds", value("seed", row)]);
    return `lightning-drift predict ${options.map(([name, text]) => option(name, String(text))).join(" ")}`;
  };
  const path = (row) => (index.folder === "." ? "" : `${index.folder}/`) + index.names[row];
  const printed = (some) => {
    const files = some.map(path);
    return `lightning-drift predict -c configs/supir.yaml ${option("data.images", files.length === 1 ? files[0] : JSON.stringify(files))}`;
  };
  byId("copy-pins").addEventListener("click", (e) => {
    const some = [...Array(count).keys()].filter((row) => pins.has(index.names[row]));
    copy(e.target, printed(some));
  });

  // -- controls ------------------------------------------------------------------------------------------

  const choose = byId("sort");
  for (const [label, names] of [["Measures", measures], ["Parameters", parameters.filter((each) => varied.includes(each.name))]])
    if (names.length) choose.append(make("optgroup", { label }, ...names.map(({ name }) => make("option", { value: name }, words(name)))));
  byId("sorted").hidden = byId("direction").hidden = !choose.options.length; // nothing differs
  choose.value = state.sort;
  choose.addEventListener("change", () => { state.sort = choose.value; select(); });
  byId("direction").addEventListener("click", () => { state.down = !state.down; select(); });
  byId("pinned").addEventListener("click", () => { state.pinned = !state.pinned; select(); });
  byId("map").hidden = !index.map_file.some(Boolean);
  byId("map").addEventListener("click", (e) => {
    e.currentTarget.setAttribute("aria-pressed", e.currentTarget.getAttribute("aria-pressed") !== "true");
    select();
    if (loupe.open) look(at);
  });
  if (!index.base_file.some(Boolean)) byId("base").hidden = true;
  byId("base").addEventListener("click", (e) => {
    e.target.setAttribute("aria-pressed", byId("grid").classList.toggle("paired"));
    select();
  });

  for (const { name, values } of parameters.filter((each) => varied.includes(each.name))) {
    if (values.length > BOXES) continue; // the words of prompts are searched
    const boxes = make("div", { class: "values" });
    values.forEach((each, position) => {
      const box = make("input", { type: "checkbox", "data-parameter": name, value: position });
      boxes.append(make("label", {}, box, make("span", {}, valueText(each, name))));
    });
    byId("by-parameter").append(make("fieldset", {}, make("legend", {}, words(name)), boxes));
  }
  for (const { name, values, about } of measures) {
    const found = values.filter((each) => each !== null);
    const line = make("div", { class: "range", title: about }, make("span", {}, words(name)));
    const ends = [["from", found.reduce((a, b) => Math.min(a, b))], ["to", found.reduce((a, b) => Math.max(a, b))]];
    for (const [side, end] of ends)
      line.append(make("input", { type: "number", step: "any", "data-measure": name, "data-side": side, placeholder: rounded(end), "aria-label": `${words(name)} ${side}` }));
    byId("by-measure").append(line);
    byId("about").append(make("dt", {}, words(name)), make("dd", {}, about));
  }
  if (!measures.length) byId("by-measure").hidden = true;
  const read = () => {
    state.words = byId("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!state.words.length) state.words = "";
    ticked.clear();
    ranges.clear();
    document.querySelectorAll("[data-parameter]:checked").forEach((box) => {
      const name = box.dataset.parameter;
      ticked.set(name, (ticked.get(name) ?? new Set()).add(Number(box.value)));
    });
    for (const { name } of measures) {
      const [from, to] = ["from", "to"].map((side) => document.querySelector(`[data-measure="${name}"][data-side="${side}"]`).value);
      if (from !== "" || to !== "") ranges.set(name, [from === "" ? -Infinity : Number(from), to === "" ? Infinity : Number(to)]);
    }
    select();
  };
  byId("filter").addEventListener("input", read);
  byId("filter").addEventListener("reset", () => setTimeout(read));
  byId("filter").addEventListener("submit", (e) => e.preventDefault());
  byId("filters").open = matchMedia("(min-width: 821px)").matches;
  select();
})();
