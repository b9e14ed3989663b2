// The call page comes whole without this: here are the time machine's slider, copying as curl, what is lit up, and living on.
"use strict";

const shellQuoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";
const mainOf = async (url) => {
  const answer = await fetch(url);
  const text = answer.ok ? await answer.text() : "";
  const next = new DOMParser().parseFromString(text, "text/html");
  return { page: next.getElementById("page"), title: next.title };
};

function notice(text) {
  const element = document.createElement("p");
  element.className = "notice";
  element.setAttribute("role", "status");
  element.textContent = text;
  document.body.append(element);
  setTimeout(() => element.remove(), 2500);
}

// Rows: a body can be taken along as curl; those of a long page are asked for.
function offerCurl(more) {
  const pre = more.querySelector("pre[data-kind]");
  if (!pre || !pre.dataset.kind || more.querySelector(".copy")) return;
  const page = document.getElementById("page").dataset;
  const button = document.createElement("button");
  button.className = "copy";
  button.type = "button";
  button.textContent = page.curl;
  button.addEventListener("click", async () => {
    const url = `${location.origin}/${pre.dataset.kind}`;
    const text = `curl -X POST ${shellQuoted(url)} -H 'Content-Type: application/json' --data-binary ${shellQuoted(pre.textContent)}`;
    try {
      await navigator.clipboard.writeText(text);
      notice(page.copied);
    } catch {
      notice(page.uncopied);
    }
  });
  more.append(button);
}

document.addEventListener("toggle", (event) => {
  if (event.target.matches?.(".rows details") && event.target.open) offerCurl(event.target.querySelector(".more"));
}, true);

async function unfold(row) {
  const form = row.closest("form"), button = row.querySelector("button");
  const query = new URLSearchParams(new FormData(form));
  query.set("key", row.id);
  button.setAttribute("aria-expanded", "true");
  const { page } = await mainOf(`${form.getAttribute("action")}?${query}`);
  const more = page?.querySelector(".more");
  if (!more || row.querySelector(".more")) return;
  for (const link of more.querySelectorAll("a")) link.setAttribute("href", link.hash);
  row.append(document.adoptNode(more));
  offerCurl(more);
}

document.addEventListener("submit", (event) => {
  const row = event.submitter?.closest(".rows li");
  if (!row) return;
  event.preventDefault();
  const more = row.querySelector(".more");
  if (!more) return unfold(row);
  more.remove();
  row.querySelector("button").setAttribute("aria-expanded", "false");
});

// Marks: a click on the timeline opens the row, pointing at one lights its causes and effects.
function openTarget() {
  const row = location.hash ? document.getElementById(decodeURIComponent(location.hash.slice(1))) : null;
  const details = row?.querySelector("details");
  if (details) details.open = true;
  else if (row?.closest(".rows") && !row.querySelector(".more")) unfold(row);
}
addEventListener("hashchange", openTarget);
document.addEventListener("click", (event) => {
  if (event.target.closest?.("a[href^='#']")) setTimeout(openTarget);
  const mark = event.target.closest?.(".marks > use");  // of a long page: no link, to be small
  if (mark) location.hash = mark.id.slice(2);
});

function light(key, on) {
  for (const path of document.querySelectorAll(".cause")) {
    if (path.dataset.event === key || path.dataset.action === key) path.classList.toggle("on", on);
  }
}
for (const [kind, on] of [["mouseover", true], ["mouseout", false], ["focusin", true], ["focusout", false]]) {
  document.addEventListener(kind, (event) => {
    const mark = event.target.closest?.(".marks a");
    if (mark) light(mark.getAttribute("href").slice(1), on);
  });
}

// The other clocks of a long page, which comes with one: told from that.
function relative(ms) {
  const sign = ms < 0 ? "−" : "+", s = Math.abs(ms) / 1000, minutes = Math.floor(s / 60), rest = s % 60;
  const tail = rest.toFixed(1).padStart(4, "0");
  if (minutes >= 60) return `${sign}${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${tail}`;
  return minutes ? `${sign}${minutes}:${tail}` : `${sign}${rest.toFixed(3)}`;
}

function clocks() {
  const page = document.querySelector("#page.thin");
  if (!page) return;
  const day = 86_400_000, half = day / 2;
  let first = null, last = null;
  for (const time of page.querySelectorAll(".rows time")) {
    const [hours, minutes, seconds] = time.textContent.split(":").map(Number);
    let at = Math.round(((hours * 60 + minutes) * 60 + seconds) * 1000);
    while (last !== null && at < last - half) at += day;
    first ??= at;
    const words = { abs: time.textContent, rel: relative(at - first), delta: relative(at - (last ?? at)) };
    time.replaceChildren(...Object.entries(words).map(([name, text]) => {
      const span = document.createElement("span");
      span.className = name;
      span.textContent = text;
      return span;
    }));
    last = at;
  }
  page.classList.replace("thin", "long");
}

// The time machine: one slider over all the moments at which a chat changed.
let chosen = "";  // the row of the moment that the reader chose; "" follows the newest

function machine() {
  const box = document.querySelector(".slider");
  const steps = [...document.querySelectorAll(".moments > li[data-from]")];
  if (!box || !steps.length) return;
  steps.sort((one, other) => one.dataset.at - other.dataset.at || (one.dataset.from < other.dataset.from ? -1 : 1));
  const moments = steps.map((step) => step.dataset.from);
  const input = box.querySelector("input"), output = box.querySelector("output");
  const times = moments.map((key) => document.querySelector(`#${key} .abs`)?.textContent ?? "");
  document.getElementById("chats").classList.add("live-slider");
  box.hidden = false;
  input.max = moments.length - 1;
  input.value = chosen ? Math.max(0, moments.indexOf(chosen)) : moments.length - 1;
  const show = () => {
    const at = Number(input.value);
    const upTo = new Set(moments.slice(0, at + 1));
    for (const list of document.querySelectorAll(".moments")) {
      let last = null;
      for (const step of list.children) {
        step.hidden = true;
        if (upTo.has(step.dataset.from)) last = step;
      }
      if (last) last.hidden = false;
    }
    output.textContent = times[at];
    input.setAttribute("aria-valuetext", times[at]);
    const mark = document.querySelector(`.marks a[href="#${moments[at]}"] use, #m-${moments[at]}`);
    document.getElementById("cursor")?.setAttribute("y", mark ? Number(mark.getAttribute("y")) + 9 : -10);
  };
  input.addEventListener("input", () => {
    chosen = Number(input.value) === moments.length - 1 ? "" : moments[input.value];
    show();
  });
  show();
}

// A long page comes without the moments and tables; they are put where a short page has them.
async function bringRest(url) {
  const { page } = await mainOf(url);
  const chats = page?.querySelector("#chats");
  if (!chats) return;
  const rows = document.querySelector(".rows").closest(".card");
  rows.after(...[...page.querySelectorAll("#decisions, #legs")].map((table) => document.adoptNode(table)));
  document.getElementById("chats").replaceWith(document.adoptNode(chats));
  machine();
}
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-rest]");
  if (!link) return;
  event.preventDefault();
  bringRest(link.getAttribute("href"));
});

// A recording that cannot be played here may be there.
document.addEventListener("error", (event) => {
  if (event.target.matches?.(".recording audio")) event.target.parentElement.querySelector(".unplayed").hidden = false;
}, true);

// Living on: the page is fetched anew when something came, and what the reader had open stays open.
async function renew(page) {
  const { page: fresh, title } = await mainOf(page.dataset.self);
  if (!fresh) return page;
  for (const details of page.querySelectorAll(".rows details[open]")) {
    const same = fresh.querySelector(`#${details.closest("li").id} details`);
    if (same) same.open = true;
  }
  for (const more of page.querySelectorAll(".rows li > .more")) fresh.querySelector(`#${more.parentElement.id}`)?.append(more);
  const clock = page.querySelector(".pick:checked");
  const player = page.querySelector(".recording"), known = fresh.querySelector(".recording");
  if (player && known) known.replaceWith(player);  // it may be playing
  page.replaceWith(document.adoptNode(fresh));
  if (clock) document.getElementById(clock.id).checked = true;
  document.title = title;
  clocks();
  machine();
  return fresh;
}

function liveOn() {
  let page = document.getElementById("page");
  if (!page || !page.dataset.live) return;
  const source = new EventSource(page.dataset.live);
  source.addEventListener("changed", async () => {
    page = await renew(page);
    if (!page.dataset.live) source.close();
  });
}

clocks();
machine();
openTarget();
liveOn();
