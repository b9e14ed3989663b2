// The call page comes whole without this: here are the time machine's slider, copying as curl, what is lit up, and living on.
"use strict";

const shellQuoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";

function notice(text) {
  const element = document.createElement("p");
  element.className = "notice";
  element.setAttribute("role", "status");
  element.textContent = text;
  document.body.append(element);
  setTimeout(() => element.remove(), 2500);
}

// Rows: a long page fetches a body when it is opened; a body can be taken along as curl.
async function fill(details) {
  const more = details.querySelector(".more");
  if (details.dataset.src && !more.querySelector("pre")) {
    const answer = await fetch(details.dataset.src);
    if (!answer.ok) return;
    const pre = document.createElement("pre");
    pre.textContent = await answer.text();
    const row = details.closest(".row");
    pre.dataset.kind = row.classList.contains("ev") ? details.querySelector(".what").textContent : "";
    more.append(pre);
  }
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
  if (event.target.matches?.(".row details") && event.target.open) fill(event.target);
}, true);

// Marks: a click on the timeline opens the row, pointing at one lights its causes and effects.
function openTarget() {
  const row = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const details = row && row.querySelector("details");
  if (details) details.open = true;
}
addEventListener("hashchange", openTarget);
document.addEventListener("click", (event) => {
  if (event.target.closest?.("a[href^='#']")) setTimeout(openTarget);
});

function light(key, on) {
  for (const path of document.querySelectorAll(".cause")) {
    if (path.dataset.event === key || path.dataset.action === key) path.classList.toggle("on", on);
  }
}
for (const [kind, on] of [["mouseover", true], ["mouseout", false], ["focusin", true], ["focusout", false]]) {
  document.addEventListener(kind, (event) => {
    const mark = event.target.closest?.(".mark");
    if (mark) light(mark.dataset.mark, on);
  });
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
    const mark = document.querySelector(`.mark[data-mark="${moments[at]}"]`);
    document.getElementById("cursor")?.setAttribute("y", mark ? mark.dataset.y - 1 : -10);
  };
  input.addEventListener("input", () => {
    chosen = Number(input.value) === moments.length - 1 ? "" : moments[input.value];
    show();
  });
  show();
}

// Living on: the page is fetched anew when something came, and what the reader had open stays open.
async function renew(page) {
  const answer = await fetch(page.dataset.self);
  if (!answer.ok) return page;
  const next = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = next.getElementById("page");
  if (!fresh) return page;
  for (const details of page.querySelectorAll(".row details[open]")) {
    const same = fresh.querySelector(`#${details.closest(".row").id} details`);
    if (same) same.open = true;
  }
  const clock = page.querySelector(".pick:checked");
  page.replaceWith(document.adoptNode(fresh));
  if (clock) document.getElementById(clock.id).checked = true;
  document.title = next.title;
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

machine();
openTarget();
liveOn();
