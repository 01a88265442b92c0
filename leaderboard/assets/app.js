"use strict";
// The script of all pages. It draws the tables and the charts from the data in the page: columns, cells and chart records
// come finished from there, and this script computes none of them. All text in the data may be hostile. It enters the
// document through `esc` or textContent, and nothing is evaluated as code.

const $ = window.jQuery;
const json = (id) => {
  const element = document.getElementById(id);
  return element ? JSON.parse(element.textContent) : null;
};
const esc = (value) =>
  String(value ?? "").replace(/[&<>"']/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[c]);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const page = json("data");

// ---- formats of cells: leaderboard/tables.py says what the value of each is -----------------------------------------

const link = (address, html) => (address ? `<a href="${esc(page.root + address)}">${html}</a>` : html);
const rounded = (value, digits) => (Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(digits))));
// html: what is shown; plain: what is sorted, searched and exported, null if missing; search: what is searched, if more;
// parts: what is exported instead, a column for each of `heads`
const number = (html) => ({ html: (value) => (value === null ? "–" : html(value)), plain: (value) => value });
const share = (write) => ({
  html: (value) => {
    if (!value) return "–";
    const [middle, low, high] = value.slice(0, 3).map(write);
    return `<b>${middle}</b> <span class="interval" title="${esc(value[3])}">${low}&thinsp;to&thinsp;${high}</span>`;
  },
  plain: (value) => (value ? value[0] : null),
  heads: (title) => [title, `${title} low`, `${title} high`],
  parts: (value) => (value ? value.slice(0, 3) : [null, null, null]),
});
const percent = share((value) => value.toFixed(1));
const variant = (words) => (words ? `<span class="variant">${esc(words)}</span>` : "");
const text = { html: (value) => esc(value) || "–", plain: (value) => value ?? "" };
const flag = ([id, message]) =>
  `<button type="button" class="flag" aria-label="${esc(id)}: ${esc(message)}" data-tip="${esc(message)}">${esc(id)}</button>`;
const unfolds = (summary, more) => `<details><summary>${esc(summary)}</summary>${esc(more)}</details>`;
const FORMATS = {
  text,
  whole: number(esc),
  figure: number((value) => rounded(value, 3)),
  precise: number((value) => rounded(value, 4)),
  share: percent,
  "signed-share": share((value) => (value < 0 ? "" : "+") + value.toFixed(1)),
  "share-note": { ...percent, html: ([value, note]) => percent.html(value) + variant(note), plain: ([value]) => percent.plain(value), parts: ([value]) => percent.parts(value) },
  flags: {
    html: ([flags, after]) => `${flags.map(flag).join(" ")} ${esc(after)}`.trim(),
    plain: ([flags, after]) => `${flags.map(([id]) => id).join(" ")} ${after}`.trim(),
  },
  trust: {
    html: ([words, state, reasons, flags]) =>
      `<button type="button" class="trust ${esc(state)}" aria-label="${esc(words)}. ${esc(reasons)}" data-tip="${esc(reasons)}">${esc(words)}</button> ${flags.map(flag).join(" ")}`,
    plain: ([words, , , flags]) => [words, ...flags.map(([id]) => id)].join(" "),
  },
  code: { html: (value) => (value ? `<code>${esc(value)}</code>` : "–"), plain: (value) => value },
  list: {
    html: (values) => (values.length < 5 ? text.html(values.join(", ")) : unfolds(`${values.length} attacks`, values.join(", "))),
    plain: (values) => values.join(", "),
  },
  folded: {
    html: (value) => (value ? unfolds(value[0], value[1]) : "–"),
    plain: (value) => (value ? value[0] : null),
    search: (value) => (value ? value.join(" ") : ""),
  },
  name: {
    html: ([name, address, words]) => link(address, esc(name)) + variant(words),
    plain: ([name, , words]) => (words ? `${name} (${words})` : name),
  },
  link: { html: (value) => (value ? `<a href="${esc(value[1])}" rel="noreferrer">${esc(value[0])}</a>` : "–"), plain: (value) => (value ? value[1] : "") },
  run: { html: ([key, address]) => link(address, `<code class="key">${esc(key.slice(0, 10))}</code>`), plain: ([key]) => key },
  outcome: { html: (value) => `<span class="${esc(value)}">${esc(value)}</span>`, plain: (value) => value },
};
const valueOf = (column, cell) => (column.has_sort ? cell[0] : cell);
const missing = (column, cell) => [null, ""].includes(FORMATS[column.format].plain(valueOf(column, cell)));
// whether a column is drawn where the reader did not say: not where no row has a value in it; all where there are no rows
const drawnAtFirst = (column, at, rows) => column.shown && (!rows.length || rows.some((row) => !missing(column, row.cells[at])));
const htmlOf = (column, cell) => FORMATS[column.format].html(valueOf(column, cell));

// ---- tables ---------------------------------------------------------------------------------------------------------

// figures: a missing value comes last in both directions
const missingLast = (sign) => (a, b) => (a === b ? 0 : a === null ? 1 : b === null ? -1 : sign * (a - b));
$.fn.dataTable.ext.type.order["figure-asc"] = missingLast(1);
$.fn.dataTable.ext.type.order["figure-desc"] = missingLast(-1);

const columnFor = (column, at) => ({
  name: column.name,
  title: esc(column.title),
  className: column.layout,
  visible: column.shown,
  data: (row) => row.cells[at],
  render: (cell, type) => {
    const format = FORMATS[column.format];
    const value = valueOf(column, cell);
    if (type === "display") return format.html(value);
    if (type === "filter" && format.search) return format.search(value);
    if (type === "export" && format.parts) return format.parts(value).join(BETWEEN);
    if (type === "sort") return column.has_sort ? cell[1] : format.plain(value);
    return format.plain(value) ?? "";
  },
  ...(column.layout === "number" || column.has_sort ? { type: "figure" } : {}),
});
const BETWEEN = "\u001f"; // between the parts of an exported cell
// CSV and the clipboard: the cells of all columns in their parts, behind what all rows have in common
const exported = (columns, common) => ({
  orthogonal: "export",
  columns: (at) => columns[at].exported,
  customizeData: (data) => {
    const own = columns.filter((column) => column.exported);
    const heads = own.map(({ format, title }) => FORMATS[format].heads?.(title) ?? [title]);
    const inParts = (cell, at) => (heads[at].length > 1 ? String(cell).split(BETWEEN) : [cell]);
    data.headerStructure = [[...common.map(([title]) => title), ...heads.flat()].map((title) => ({ title }))];
    data.body = data.body.map((cells) => [...common.map(([, value]) => value ?? ""), ...cells.flatMap(inParts)]);
  },
});

function sortable(element, { columns, order, rows, common }) {
  const exportOptions = exported(columns, common);
  const bare = element.matches(".bare"); // a table of few rows: no search, no buttons
  const filename = `${document.title.split(":")[0]} ${element.id}`;
  const table = $(element).DataTable({
    data: rows,
    columns: columns.map(columnFor),
    order: order.map(([name, direction]) => [columns.findIndex((column) => column.name === name), direction]),
    autoWidth: false,
    deferRender: true,
    pageLength: 25,
    lengthMenu: [10, 25, 100, { label: "all", value: -1 }],
    layout: bare ? { topStart: null, topEnd: null, bottomStart: null, bottomEnd: "paging" } : {
      topStart: "search",
      topEnd: { buttons: [{ extend: "colvis", text: "Columns", background: false }, { extend: "copyHtml5", text: "Copy", exportOptions }, { extend: "csvHtml5", text: "CSV", title: null, exportOptions, filename }] },
      bottomStart: ["pageLength", "info"],
      bottomEnd: "paging",
    },
    language: { search: "Search", emptyTable: "Nothing here.", lengthMenu: "_MENU_ a page" },
    drawCallback: function () {
      const api = this.api();
      api.table().container().querySelector(".dt-paging").hidden = api.page.info().pages < 2;
    },
    createdRow: (drawn, row) => drawn.classList.toggle("muted", Boolean(row.muted)),
  });
  columns.forEach((column, at) => (table.column(at).header().dataset.tip = column.tooltip));
  table.on("column-visibility", (event, settings, at, state) => {
    if (!unasked) chosen(element.id).set(columns[at].name, state);
  });
  show(element.id, table);
  return table;
}

// what the reader chose in the column menu of a table: by the name of the column, whether it is visible
const choices = new Map();
const chosen = (id) => choices.get(id) ?? choices.set(id, new Map()).get(id);
let unasked = false; // the script, not the reader, changes what is visible
function show(id, table) {
  const rows = table.rows().data().toArray();
  const visible = page.tables[id].columns.map((column, at) => chosen(id).get(column.name) ?? drawnAtFirst(column, at, rows));
  unasked = true;
  for (const state of [true, false]) table.columns((at) => visible[at] === state).visible(state); // each draws the heads anew
  unasked = false;
}

// a table that is short and stays as it is
function plain(element, { columns, rows }) {
  const title = (column) => `<th scope="col" data-tip="${esc(column.tooltip)}">${esc(column.title)}</th>`;
  const cell = (column, value, at) =>
    at === 0 ? `<th scope="row" class="${esc(column.layout)}">${htmlOf(column, value)}</th>` : `<td class="${esc(column.layout)}">${htmlOf(column, value)}</td>`;
  const visible = (cells) => cells.filter((_, at) => drawnAtFirst(columns[at], at, rows));
  const line = (row) => `<tr${row.muted ? ' class="muted"' : ""}>${visible(columns.map((column, at) => cell(column, row.cells[at], at))).join("")}</tr>`;
  element.innerHTML = `<thead><tr>${visible(columns.map(title)).join("")}</tr></thead><tbody>${rows.map(line).join("")}</tbody>`;
}

// the figures of one row, each with its title
function figures(element, { columns, rows }) {
  const figure = (column, at) => `<div><dt data-tip="${esc(column.tooltip)}">${esc(column.title)}</dt><dd>${htmlOf(column, rows[0].cells[at])}</dd></div>`;
  element.innerHTML = columns.map((column, at) => (missing(column, rows[0].cells[at]) ? "" : figure(column, at))).join("");
}

// ---- charts ---------------------------------------------------------------------------------------------------------

const drawn = new Map();
const colors = () => {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const axis = { labelColor: color("--ink"), titleColor: color("--ink"), gridColor: color("--line"), domainColor: color("--line"), tickColor: color("--line") };
  return {
    background: null,
    axis,
    header: { labelColor: axis.labelColor, titleColor: axis.titleColor },
    legend: { labelColor: axis.labelColor, titleColor: axis.titleColor },
    title: { color: axis.titleColor },
    view: { stroke: null },
  };
};
async function draw(id, spec, rows) {
  const figure = document.getElementById(id);
  drawn.set(id, [spec, rows]);
  figure.hidden = rows.length === 0;
  const canvas = figure.querySelector(".canvas");
  canvas.replaceChildren();
  if (!rows.length) return;
  const whole = { ...spec, datasets: { rows }, config: { ...spec.config, ...colors() } };
  await window.vegaEmbed(canvas, whole, { ast: true, actions: false, renderer: "canvas", defaultStyle: false, tooltip: { theme: "page", disableDefaultStyle: true } });
}
dark.addEventListener("change", () => {
  document.documentElement.classList.toggle("dark", dark.matches);
  drawn.forEach(([spec, rows], id) => draw(id, spec, rows));
});

// ---- the overview: menus, with their state in the address -----------------------------------------------------------

const MENUS = ["dataset", "radius", "tier", "base"];
const ALL = "all";

// boards: dataset, radius, tiers (the one to show first, first) with what each lacks, bases
function overview(boards, tables, charts) {
  const form = document.getElementById("menus");
  let state;
  const menu = (name) => form.elements[name].value;
  const options = (name, values) => {
    const select = form.elements[name];
    const wanted = state.get(name);
    select.replaceChildren(...values.map(([value, title]) => new Option(title, value)));
    select.value = values.some(([value]) => value === wanted) ? wanted : values[0][0];
  };
  const same = (values) => [...new Set(values)].map((value) => [value, value]);
  const board = () => boards.findIndex((one) => one.dataset === menu("dataset") && one.radius === menu("radius"));
  const refill = () => {
    options("dataset", same(boards.map((one) => one.dataset)));
    options("radius", same(boards.filter((one) => one.dataset === menu("dataset")).map((one) => one.radius)));
    const { tiers, bases } = boards[board()];
    const states = new Map(tiers.map(([tier, ...words]) => [tier, words]));
    const wanted = state.get("tier");
    form.elements.tier.value = states.has(wanted) ? wanted : tiers[0][0];
    for (const radio of form.elements.tier) radio.parentElement.querySelector(".state").textContent = states.get(radio.value)[0];
    document.getElementById("over").textContent = states.get(menu("tier"))[1];
    options("base", same([ALL, ...bases]));
  };
  const fillAll = () => {
    const here = (one) => one.boards.includes(board()) && (one.tier === null || one.tier === menu("tier"));
    for (const [id, table] of Object.entries(tables)) {
      const rows = page.tables[id].rows.filter((row) => here(row) && (row.base === null || [ALL, row.base].includes(menu("base"))));
      table.clear().rows.add(rows);
      show(id, table);
      table.draw();
      const section = table.table().node().closest("section");
      section.hidden = section.matches(".optional") && !rows.length;
    }
    for (const { id, chart, pool, states } of charts.drawings) {
      const chosen = states.find((one) => here(one) && (one.base ?? ALL) === menu("base"));
      draw(id, charts.specs[chart], chosen ? chosen.rows.map((at) => ({ ...pool[at] })) : []);
    }
  };
  form.addEventListener("change", (event) => {
    state.delete(event.target.name);
    MENUS.forEach((name) => state.set(name, menu(name)));
    refill();
    fillAll();
    keep(menu, tables);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  const obey = () => {
    state = new URLSearchParams(location.hash.slice(1));
    restore(state, tables);
    refill();
    fillAll();
  };
  obey();
  window.addEventListener("hashchange", obey); // an address that was changed by hand, or the way back
  for (const table of Object.values(tables)) table.on("order search column-visibility", () => unasked || keep(menu, tables));
}

const names = (id) => page.tables[id].columns.map((column) => column.name);
const CHOICES = [["shown", true], ["hidden", false]];

function keep(menu, tables) {
  const now = new URLSearchParams(MENUS.map((name) => [name, menu(name)]));
  for (const [id, table] of Object.entries(tables)) {
    if (table.search()) now.set(`${id}.search`, table.search());
    now.set(`${id}.order`, table.order().map(([at, direction]) => `${names(id)[at]}.${direction}`).join(","));
    for (const [word, visible] of CHOICES) {
      const list = names(id).filter((name) => chosen(id).get(name) === visible);
      if (list.length) now.set(`${id}.${word}`, list.join(","));
    }
  }
  history.replaceState(null, "", `#${now}`);
}

function restore(state, tables) {
  for (const [id, table] of Object.entries(tables)) {
    table.search(state.get(`${id}.search`) ?? "");
    const parts = (state.get(`${id}.order`) ?? "").split(",").map((part) => part.split("."));
    const order = parts.map(([name, direction]) => [names(id).indexOf(name), direction]).filter(([at, direction]) => at >= 0 && ["asc", "desc"].includes(direction));
    if (order.length) table.order(order);
    chosen(id).clear();
    for (const [word, visible] of CHOICES) for (const name of (state.get(`${id}.${word}`) ?? "").split(",")) if (names(id).includes(name)) chosen(id).set(name, visible);
  }
}

// ---- what every page has --------------------------------------------------------------------------------------------

function tips() {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const show = (event) => {
    const about = event.target.closest?.("[data-tip]");
    tip.hidden = !about;
    if (!about) return;
    tip.textContent = about.dataset.tip;
    const box = about.getBoundingClientRect();
    tip.style.top = `${box.bottom + window.scrollY + 4}px`;
    tip.style.left = `${Math.max(4, Math.min(box.left + window.scrollX, window.innerWidth - tip.offsetWidth - 8))}px`;
  };
  for (const name of ["mouseover", "focusin", "click"]) document.addEventListener(name, show);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") tip.hidden = true;
  });
}

// every table of the data has an element with its id; what the element is says how it is drawn
function fill(id, content, rows) {
  const element = document.getElementById(id);
  if (element.matches("dl")) return figures(element, content);
  if (element.matches(".plain")) return plain(element, content);
  return sortable(element, { ...content, rows });
}

function start() {
  document.documentElement.classList.toggle("dark", dark.matches);
  tips();
  if (!page) return;
  const charts = json("charts");
  const tables = {};
  for (const [id, content] of Object.entries(page.tables)) {
    const table = fill(id, content, page.menus ? [] : content.rows);
    if (table) tables[id] = table;
  }
  if (page.menus) return overview(page.menus, tables, charts);
  for (const { id, chart, rows } of charts.drawings) draw(id, charts.specs[chart], rows);
  document.querySelectorAll("select[data-table]").forEach((select) => {
    const column = tables[select.dataset.table].column(`${select.name}:name`);
    select.addEventListener("change", () => column.search(select.value ? (value) => value === select.value : "").draw());
  });
}
start();
