// The tab in TensorBoard: the corridor's page over HTML and data that the plugin answers, asked for again and again.
const EVERY = 3000; // milliseconds between two questions
const GROUPS_EVERY = 5; // questions between two for the groups
const OF_THE_SCRIPT = "#stage, nav.scrub, dialog"; // filled by the page's script, so never replaced in a group

const at = { groups: [], query: null, etag: null, html: null, data: null, head: "", sweeps: "", sent: new Map(), page: null };

// -- what is asked ----------------------------------------------------------------------------------------

// JSON of an answer; null for one that the tab has already.
const ask = async (address, etag = null) => {
  const answer = await fetch(address, etag ? { headers: { "If-None-Match": etag } } : { cache: "no-store" });
  if (answer.status === 304) return null;
  if (!answer.ok) throw new Error(`TensorBoard answers ${answer.status}`);
  return { content: await answer.json(), etag: answer.headers.get("ETag") };
};

const askGroups = async () => {
  const { folder, groups } = (await ask("groups")).content;
  const { sweeps } = (await ask("sweeps")).content;
  at.groups = groups;
  showSweeps(sweeps);
  if (!groups.some(({ query }) => query === at.query)) at.query = null;
  if (!groups.length) showNothing(folder, sweeps.length);
  else {
    showGroups();
    if (at.query === null) choose(groups[0].query);
  }
};

const choose = (query) => {
  Object.assign(at, { query, etag: null, html: null, data: null, sent: new Map() });
  byId("groups").value = query;
};

const askPage = async () => {
  const query = at.query;
  const answer = query && (await ask(`page?${query}`, at.etag));
  if (!answer || query !== at.query) return; // nothing new, or another group was chosen meanwhile
  at.etag = answer.etag;
  showPage(answer.content);
};

let asked = 0;
let busy = Promise.resolve();
const look = () => {
  busy = busy.then(async () => {
    try {
      if (!at.groups.length || asked++ % GROUPS_EVERY === 0) await askGroups();
      await askPage();
      byId("lost").hidden = true;
    } catch (error) {
      if (!(error instanceof TypeError) && !/^TensorBoard answers/.test(error.message)) console.error(error);
      byId("lost").textContent = `What is shown may be old: ${error.message}.`;
      byId("lost").hidden = false;
      at.etag = null; // a page that was shown by half is asked for again
      asked = 0;
    }
  });
  return busy;
};

// -- what is shown ----------------------------------------------------------------------------------------

const showNothing = (folder, sweeps) => {
  choose(null);
  byId("bar").hidden = !sweeps;
  byId("groups").parentNode.hidden = true;
  byId("progress").replaceChildren();
  byId("head").hidden = byId("page").hidden = true; // kept, as the page's script is at work on it
  byId("nothing").hidden = false;
  byId("nothing").replaceChildren(make("main", { class: "nothing" },
    make("h2", {}, "No corridor yet"),
    make("p", {}, folder
      ? `${folder} holds no fit of lightning-drift that TensorBoard has read. One appears here while it runs:`
      : "The tab Corridor needs one log folder: start TensorBoard with --logdir. A fit appears here while it runs:"),
    make("pre", { tabindex: "0" }, "lightning-drift corridor   # several learning rates, compared\nlightning-drift fit        # one fit")));
};

const showGroups = () => {
  byId("bar").hidden = false;
  const select = byId("groups");
  select.parentNode.hidden = at.groups.length < 2;
  const options = at.groups.map(({ query, title, running }) => {
    const option = make("option", { value: query }, running ? `${title} (running)` : title);
    option.selected = query === at.query;
    return option;
  });
  const same = options.map((each) => each.outerHTML + each.text).join() === [...select.options].map((each) => each.outerHTML + each.text).join();
  if (!same) select.replaceChildren(...options); // an open list would close
  if (at.query !== null) select.value = at.query;
};

const SWEEPS = 4; // that are named in the bar; the others fold out

// Links to the sweeps' pages, which open beside TensorBoard.
const showSweeps = (sweeps) => {
  const links = sweeps.map(({ title, query, pictures }) => make("li", {},
    make("a", { href: `sweep?${query}`, target: "_blank", rel: "noopener", title: `${pictures.toLocaleString("en")} picture${pictures === 1 ? "" : "s"}` }, title)));
  const place = byId("sweeps");
  const parts = [make("span", { id: "sweeps-title" }, "Sweeps"), make("ul", { "aria-labelledby": "sweeps-title" }, ...links.slice(0, SWEEPS))];
  if (links.length > SWEEPS) {
    parts.push(make("details", {}, make("summary", {}, `${links.length - SWEEPS} more`), make("ul", { "aria-label": "More sweeps" }, ...links.slice(SWEEPS))));
  }
  const fresh = make("div", {}, ...parts);
  place.hidden = !sweeps.length;
  if (at.sweeps === fresh.innerHTML) return; // a link keeps its focus, the list stays open
  at.sweeps = fresh.innerHTML;
  const open = place.querySelector("details")?.open;
  place.replaceChildren(...fresh.childNodes);
  if (open) place.querySelector("details")?.setAttribute("open", "");
};

const showPage = ({ title, eyebrow = "", lead = "", problem, html, data, progress = [], remarks = [] }) => {
  byId("nothing").hidden = true;
  byId("head").hidden = false;
  byId("page").hidden = Boolean(problem);
  showHead(eyebrow, title, problem ?? lead, remarks);
  showProgress(progress);
  if (problem) return;
  const changed = at.html !== html;
  if (changed) {
    const fresh = make("template");
    fresh.innerHTML = html; // our own, in which all text is escaped
    if (at.html === null) byId("page").replaceChildren();
    merge(byId("page"), fresh.content);
    at.html = html;
  }
  const text = JSON.stringify(data);
  if (!changed && text === at.data) return;
  at.data = text;
  if (at.page) at.page.update(data);
  else at.page = corridorPage(data);
};

const showHead = (eyebrow, title, lead, remarks) => {
  const parts = [make("p", { class: "eyebrow" }, eyebrow), make("h1", {}, title), make("p", { class: "lead" }, lead)];
  if (remarks.length) {
    const count = `${remarks.length} remark${remarks.length > 1 ? "s" : ""} on files`;
    parts.push(make("details", { class: "remarks" }, make("summary", {}, count), ...remarks.map((text) => make("p", {}, text))));
  }
  const text = parts.map((part) => part.outerHTML).join("");
  if (at.head !== text) byId("head").replaceChildren(...parts);
  at.head = text;
};

const LINES = 12; // of the progress

// A line for each fit that goes on or was stopped; the others are counted.
const showProgress = (runs) => {
  const ended = runs.filter(({ step, end, running }) => !running && step !== null && (end === null || step >= end));
  const waiting = runs.filter(({ step, running }) => !running && step === null);
  const told = runs.filter((run) => !ended.includes(run) && !waiting.includes(run)).sort((a, b) => b.running - a.running);
  const rest = [[told.length - LINES, "more"], [ended.length, `fit${ended.length > 1 ? "s" : ""} done`], [waiting.length, "not begun"]].filter(([count]) => count > 0);
  byId("progress").replaceChildren(...told.slice(0, LINES).map((run) => {
    const line = make("li", { class: run.running ? "" : "still" }, make("span", {}, run.label));
    if (run.end !== null) line.append(make("progress", { max: run.end, value: run.step ?? 0, "aria-label": `${run.label}, steps` }));
    const steps = `${run.step ?? 0}${run.end === null ? "" : ` of ${run.end}`}`;
    const left = run.seconds_left === null ? "running" : `${duration(run.seconds_left)} left`;
    line.append(make("span", {}, run.running ? `${steps}, ${left}` : `stopped at ${steps}`));
    return line;
  }), ...(rest.length ? [make("li", {}, rest.map(([count, what]) => `${count} ${what}`).join(", "))] : []));
};

const duration = (seconds) => {
  if (seconds < 60) return "less than a minute";
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
};

// -- one HTML over another --------------------------------------------------------------------------------

const key = (element) => element.id || element.getAttribute("aria-labelledby") || `${element.localName}.${element.className}`;

// Puts fresh HTML in place of what was sent before; what is the same stays, with the reader's place in it.
const merge = (old, fresh) => {
  const known = new Map([...old.children].map((element) => [key(element), element]));
  let before = old.firstElementChild;
  for (const element of [...fresh.children]) {
    const name = key(element);
    let own = known.get(name);
    known.delete(name);
    if (own && element.matches("main, .room")) merge(own, element);
    else if (!own || (!element.matches(OF_THE_SCRIPT) && at.sent.get(name) !== element.outerHTML)) {
      remember(element);
      if (own === before) before = own?.nextElementSibling ?? null;
      if (own) replace(own, element);
      else old.insertBefore(element, before);
      own = element;
    }
    if (own === before) before = own.nextElementSibling;
  }
  known.forEach((element) => element.remove());
};

// Keeps how each part was sent, as scripts change it later.
const remember = (element) => {
  at.sent.set(key(element), element.outerHTML);
  if (element.matches("main, .room")) [...element.children].forEach(remember);
};

const replace = (own, element) => {
  const [folds, freshFolds] = [own, element].map((each) => [...each.querySelectorAll("details")]);
  freshFolds.forEach((fold, i) => { if (folds[i]) fold.open = folds[i].open; });
  const verdict = own.querySelector("#verdict"); // read out as it changes, so it stays
  if (verdict) element.querySelector("#verdict").replaceWith(verdict);
  const places = [own, ...own.querySelectorAll(".scroll, pre")].map(({ scrollLeft, scrollTop }) => [scrollLeft, scrollTop]);
  own.replaceWith(element);
  [element, ...element.querySelectorAll(".scroll, pre")].forEach((each, i) => {
    if (places[i]) [each.scrollLeft, each.scrollTop] = places[i];
  });
};

// -- the frame --------------------------------------------------------------------------------------------

// TensorBoard's look, which its reader may change at any time.
const followTheme = () => {
  const host = parent.document.body;
  const follow = () => {
    document.documentElement.style.colorScheme = host.classList.contains("dark-mode") ? "dark" : "light";
  };
  new MutationObserver(follow).observe(host, { attributes: true, attributeFilter: ["class"] });
  follow();
};

export const render = async () => {
  followTheme();
  document.documentElement.lang = "en";
  document.head.append(make("style", {}, STYLE));
  const select = make("select", { id: "groups" });
  select.addEventListener("change", () => { choose(select.value); look(); });
  select.addEventListener("keydown", (e) => e.stopPropagation()); // its keys are not the page's
  const bar = make("div", { class: "page tab", id: "bar", hidden: "" },
    make("label", {}, "Corridor", select), make("ul", { id: "progress", class: "progress", "aria-label": "Progress of the fits" }),
    make("nav", { id: "sweeps", class: "sweeps", "aria-label": "Sweeps", hidden: "" }));
  document.body.append(bar,
    make("p", { class: "page lost", id: "lost", role: "status", hidden: "" }),
    make("header", { class: "page", id: "head" }), make("div", { id: "nothing", hidden: "" }), make("div", { id: "page" }));
  await look();
  // Not while the window is, nor while TensorBoard shows another tab.
  const seen = () => !document.hidden && frameElement.getClientRects().length > 0;
  setInterval(() => { if (seen()) look(); }, EVERY);
  document.addEventListener("visibilitychange", () => { if (seen()) look(); });
};
