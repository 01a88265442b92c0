"use strict";
// The pages' own script: fills tables and pictures from the data that stand in the page. Whatever is shown came from a
// database, so text enters the document as text (`esc`, textContent) and nothing is evaluated.

const $ = window.jQuery;
const json = (id) => {
  const element = document.getElementById(id);
  return element ? JSON.parse(element.textContent) : null;
};
const esc = (value) =>
  String(value ?? "").replace(/[&<>"']/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[c]);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

// ---- what cells show ------------------------------------------------------------------------------------------------

const number = (digits) => (value, type) => {
  if (value === null || value === undefined) return type === "display" ? "–" : type === "sort" ? null : "";
  if (type !== "display" || digits === null) return type === "display" ? esc(value) : value;
  return Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(digits)));
};
// [value, low, high, method]: sorted and exported by its value
const share = (value, type) => {
  if (!value) return type === "display" ? "–" : type === "sort" ? null : "";
  if (type !== "display") return value[0];
  const [middle, low, high] = value.map((part) => (typeof part === "number" ? part.toFixed(1) : part));
  return `<b>${middle}</b> <span class="interval" title="${esc(value[3])}">${low}&thinsp;to&thinsp;${high}</span>`;
};
const text = (value, type) => (type === "display" ? esc(value) || "–" : value ?? "");
// a long list is folded, so that rows stay low
const listed = (names, type) =>
  type !== "display" || names.length < 5 ? text(names.join(", "), type) : `<details><summary>${names.length} attacks</summary>${esc(names.join(", "))}</details>`;
const chips = (flags, type) =>
  type === "display"
    ? flags.map(([id, message]) => `<button type="button" class="flag" aria-label="${esc(id)}: ${esc(message)}" data-tip="${esc(message)}">${esc(id)}</button>`).join(" ")
    : flags.map(([id]) => id).join(" ");
const named = (row, type) => {
  if (type !== "display") return row.variant ? `${row.defense} (${row.variant})` : row.defense;
  const name = row.defense_page ? `<a href="${esc(row.defense_page)}">${esc(row.defense)}</a>` : esc(row.defense);
  return row.variant ? `${name}<span class="variant">${esc(row.variant)}</span>` : name;
};
const column = (title, data, render, more = {}) => ({ title, data, render, ...(more.className === "number" ? { type: "figure" } : {}), ...more });
// figures: what is missing comes last, whichever way a column is sorted
const missingLast = (sign) => (a, b) => (a === b ? 0 : a === null ? 1 : b === null ? -1 : sign * (a - b));
$.fn.dataTable.ext.type.order["figure-asc"] = missingLast(1);
$.fn.dataTable.ext.type.order["figure-desc"] = missingLast(-1);

const COLUMNS = {
  ranking: [
    column("Rank", "rank", number(null), { className: "number" }),
    column("Defense", null, (_, type, row) => named(row, type), { className: "name" }),
    column("Base", "base", text, { className: "name" }),
    column("Robust %", "robust", share, { className: "number" }),
    column("Clean %", "clean", share, { className: "number" }),
    column("n", "n", number(null), { className: "number" }),
    column("Attacks", "attacks", (value, type) => listed(value, type), { className: "wide" }),
    column("Broken by, or why it has no rank", "breakers", (value, type, row) => text([value, row.why].filter(Boolean).join("; "), type), { className: "wide" }),
    column("ms an answer", "ms", number(3), { className: "number" }),
    column("Times the base", "times", number(3), { className: "number" }),
    column("Flags", "flags", chips),
    column("Paper", "paper", (value, type) => (type === "display" && value ? `<a href="${esc(value)}" rel="noreferrer">paper</a>` : type === "display" ? "–" : value)),
  ],
  runs: [
    column("Defense", null, (_, type, row) => named(row, type), { className: "name" }),
    column("Base", "base", text, { className: "name" }),
    column("Attack", "attack", text, { className: "name" }),
    column("Board", "board", text, { className: "name" }),
    column("Threat", "threat", (value, type, row) => (type === "display" ? `<details><summary>${esc(value)}</summary>${esc(row.words)}</details>` : type === "filter" ? `${value} ${row.words}` : value), { className: "name" }),
    column("Knows", "tier", text),
    column("n", "n", number(null), { className: "number" }),
    column("Clean %", "clean", share, { className: "number" }),
    column("Robust %", "robust", share, { className: "number" }),
    column("ms an answer", "ms", number(3), { className: "number" }),
    column("Flags and reasons", "flags", (value, type, row) => `${chips(value, type)} ${type === "display" ? esc(row.reason) : row.reason}`.trim(), { className: "wide" }),
    column("Run", "run", (value, type, row) => {
      if (type !== "display") return value;
      const short = `<code>${esc(value.slice(0, 10))}</code>`;
      return row.page ? `<a href="${esc(row.page)}">${short}</a>` : short;
    }),
  ],
  examples: [
    column("Example", "index", number(null), { className: "number" }),
    column("Game", "game", number(null), { className: "number" }),
    column("Place", "position", number(null), { className: "number" }),
    column("Label", "label", number(null), { className: "number" }),
    column("Clean answer", "clean", number(null), { className: "number" }),
    column("Answer", "answer", number(null), { className: "number" }),
    column("Outcome", "kind", (value, type) => (type === "display" ? `<span class="${esc(value)}">${esc(value)}</span>` : value)),
    column("Distance", "distance", number(4), { className: "number" }),
    column("Queries", "queries", number(null), { className: "number" }),
    column("Passes", "passes", number(null), { className: "number" }),
    column("Note", "violation", text, { className: "wide" }),
  ],
};

const table = (id, rows, order, more = {}) =>
  $(`#${id}`).DataTable({
    data: rows,
    columns: COLUMNS[id],
    order,
    autoWidth: false,
    deferRender: true,
    pageLength: 25,
    lengthMenu: [10, 25, 100, { label: "all", value: -1 }],
    layout: {
      topStart: "search",
      topEnd: { buttons: [{ extend: "colvis", text: "Columns" }, { extend: "copyHtml5", text: "Copy", exportOptions: { orthogonal: "export" } }, { extend: "csvHtml5", text: "CSV", title: null, exportOptions: { orthogonal: "export" }, filename: `${document.title.split(":")[0]} ${id}` }] },
      bottomStart: ["pageLength", "info"],
      bottomEnd: "paging",
    },
    language: { search: "Search", emptyTable: "Nothing here.", lengthMenu: "_MENU_ a page" },
    createdRow: (element, row) => {
      if (row.rank === null || row.ranked === false) element.classList.add("unranked");
    },
    ...more,
  });

// ---- pictures -------------------------------------------------------------------------------------------------------

const drawn = new Map();
const ink = () => {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { labelColor: colour("--ink"), titleColor: colour("--ink"), gridColor: colour("--line"), domainColor: colour("--line"), tickColor: colour("--line") };
  return {
    background: null,
    axis,
    header: { labelColor: axis.labelColor, titleColor: axis.titleColor },
    legend: { labelColor: axis.labelColor, titleColor: axis.titleColor },
    title: { color: axis.titleColor },
    view: { stroke: null },
  };
};
const draw = async (id, spec, rows) => {
  const figure = document.getElementById(id);
  if (!figure) return;
  drawn.set(id, [spec, rows]);
  figure.hidden = rows.length === 0;
  const place = figure.querySelector(".canvas");
  place.replaceChildren();
  if (!rows.length) return;
  const whole = { ...spec, datasets: { rows }, config: { ...spec.config, ...ink() } };
  await window.vegaEmbed(place, whole, { ast: true, actions: false, renderer: "canvas", defaultStyle: false, tooltip: { theme: "page", disableDefaultStyle: true } });
};
dark.addEventListener("change", () => {
  document.documentElement.classList.toggle("dark", dark.matches);
  drawn.forEach(([spec, rows], id) => draw(id, spec, rows));
});

// ---- the overview: menus, with their state in the address -----------------------------------------------------------

const MENUS = ["dataset", "budget", "tier", "base"];
const LOWEST = (rows, names = (row) => [row.label, row.attack]) => {
  const lowest = new Map();
  rows.forEach((row) => {
    const key = JSON.stringify(names(row));
    if (!lowest.has(key) || row.robust[0] < lowest.get(key).robust[0]) lowest.set(key, row);
  });
  return [...lowest.values()];
};
const figures = (row) => ({
  defense: row.label, attack: row.attack, threat: row.threat, n: row.n,
  robust: row.robust[0], low: row.robust[1], high: row.robust[2],
  interval: `${row.robust[1].toFixed(1)} to ${row.robust[2].toFixed(1)}`,
});

function overview(data, charts) {
  const form = document.getElementById("menus");
  const state = new URLSearchParams(location.hash.slice(1));
  const ranking = table("ranking", [], [[0, "asc"]]);
  const runs = table("runs", [], [[8, "desc"]]);
  const tables = { ranking, runs };

  const options = (name, values, words = {}) => {
    const select = form.elements[name];
    const wanted = state.get(name);
    select.replaceChildren(...values.map((value) => new Option(words[value] ?? value, value)));
    select.value = values.includes(wanted) ? wanted : values[0];
  };
  const boards = data.boards; // [{dataset, budget, runs}], the fullest first
  const refill = () => {
    options("dataset", [...new Set(boards.map((board) => board.dataset))]);
    const dataset = form.elements.dataset.value;
    options("budget", boards.filter((board) => board.dataset === dataset).map((board) => board.budget));
    const budget = form.elements.budget.value;
    const ranked = (tier) => data.standings.some((row) => row.rank !== null && row.tier === tier && row.dataset === dataset && row.budget === budget);
    const tiers = [...data.tiers.filter(ranked), ...data.tiers.filter((tier) => !ranked(tier))]; // what has a ranking first
    options("tier", tiers, Object.fromEntries(tiers.filter((tier) => !ranked(tier)).map((tier) => [tier, `${tier} (nothing ranked)`])));
    const bases = data.standings.filter((row) => row.dataset === dataset).map((row) => row.base);
    options("base", ["all", ...[...new Set(bases)].sort()]);
  };
  const show = () => {
    const chosen = Object.fromEntries(MENUS.map((name) => [name, form.elements[name].value]));
    const here = (row) => row.dataset === chosen.dataset && row.budget === chosen.budget && (chosen.base === "all" || row.base === chosen.base);
    const standing = data.standings.filter((row) => here(row) && row.tier === chosen.tier);
    const played = data.runs.filter((row) => here(row) || (row.attack === "clean" && row.dataset === chosen.dataset && (chosen.base === "all" || row.base === chosen.base)));
    ranking.clear().rows.add(standing).draw();
    runs.clear().rows.add(played).draw();
    document.getElementById("tier-words").textContent = data.tier_words[chosen.tier];
    const numbered = played.filter((row) => row.ranked && row.robust && row.attack !== "clean");
    draw("chart-heatmap", charts.heatmap, LOWEST(numbered).map(figures));
    draw("chart-pareto", charts.pareto, standing.filter((row) => row.rank !== null && row.times).map((row) => ({ ...figures(row), times: row.times, clean: row.clean ? row.clean[0] : null, front: row.front })));
    draw("chart-attack-cost", charts["attack-cost"], numbered.map((row) => ({ ...figures(row), ...row.spent, work: row.spent.forwards + row.spent.backwards + row.spent.queries })));
    for (const name of ["delay", "known"]) {
      const attack = { delay: "pgd-skip-delayed", known: "pgd-skip-partial" }[name];
      const rows = numbered.filter((row) => row.attack === attack && name in row.coordinates);
      const values = (label) => new Set(rows.filter((row) => row.label === label).map((row) => row.coordinates[name])).size;
      draw(`chart-surface-${name}`, charts[`surface-${name}`], LOWEST(rows.filter((row) => values(row.label) > 1), (row) => [row.label, row.coordinates[name], row.coordinates.p]).map((row) => ({ ...figures(row), x: row.coordinates[name], p: row.coordinates.p })));
    }
  };
  const keep = () => {
    const now = new URLSearchParams(MENUS.map((name) => [name, form.elements[name].value]));
    for (const [name, shown] of Object.entries(tables)) {
      if (shown.search()) now.set(`${name}.search`, shown.search());
      now.set(`${name}.order`, shown.order().map(([at, way]) => `${at}.${way}`).join(","));
      const hidden = shown.columns().indexes().toArray().filter((at) => !shown.column(at).visible());
      if (hidden.length) now.set(`${name}.hidden`, hidden.join(","));
    }
    history.replaceState(null, "", `#${now}`);
  };
  const restore = () => {
    for (const [name, shown] of Object.entries(tables)) {
      shown.search(state.get(`${name}.search`) ?? "");
      const count = shown.columns().count();
      const order = (state.get(`${name}.order`) ?? "").split(",").map((part) => part.split(".")).filter(([at, way]) => Number(at) < count && ["asc", "desc"].includes(way));
      if (order.length) shown.order(order.map(([at, way]) => [Number(at), way]));
      const hidden = (state.get(`${name}.hidden`) ?? "").split(",").filter((at) => at !== "").map(Number);
      hidden.filter((at) => at < count).forEach((at) => shown.column(at).visible(false));
    }
  };
  restore();
  refill();
  show();
  form.addEventListener("change", (event) => {
    state.delete(event.target.name);
    MENUS.forEach((name) => state.set(name, form.elements[name].value));
    refill();
    show();
    keep();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const shown of Object.values(tables)) shown.on("order search column-visibility", keep);
}

// ---- what every page has --------------------------------------------------------------------------------------------

function tips() {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const show = (event) => {
    const flag = event.target.closest?.(".flag");
    tip.hidden = !flag;
    if (!flag) return;
    tip.textContent = flag.dataset.tip;
    const box = flag.getBoundingClientRect();
    tip.style.top = `${box.bottom + window.scrollY + 4}px`;
    tip.style.left = `${Math.max(4, Math.min(box.left + window.scrollX, window.innerWidth - tip.offsetWidth - 8))}px`;
  };
  for (const name of ["mouseover", "focusin", "click"]) document.addEventListener(name, show);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") tip.hidden = true;
  });
}

function start() {
  document.documentElement.classList.toggle("dark", dark.matches);
  tips();
  const data = json("data");
  const charts = json("charts") ?? {};
  if (!data) return;
  if (document.getElementById("menus")) return overview(data, charts);
  document.querySelectorAll(".chart").forEach((figure) => draw(figure.id, charts[figure.dataset.kind], json(`${figure.id}-data`)));
  if (data.runs) table("runs", data.runs, [[3, "asc"]]);
  if (data.examples) {
    const shown = table("examples", data.examples, []);
    document.querySelector("select[name=kind]").addEventListener("change", (event) => {
      const kind = event.target.value;
      shown.column(6).search(kind ? (value) => value === kind : "").draw();
    });
  }
}
start();
