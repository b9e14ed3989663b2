// The chat view. Reads /sim/chats, follows /sim/events. What comes from outside enters the page only as text nodes,
// and as links that begin with http:// or https://; there is no innerHTML here.
"use strict";

const SHOWN_CHATS = 24;
const SHOWN_MESSAGES = 200;
const CLOSED = {
  blocked: "Бот заблокирован", deactivated: "Аккаунт удалён", kicked: "Бота удалили из чата", left: "Бот вышел из чата",
  deleted: "Группа удалена", upgraded: "Группа стала супергруппой", not_started: "Пользователь ещё не начал чат",
  no_text_right: "Боту нельзя писать", no_post_right: "Боту нельзя публиковать", no_write_access: "Боту нельзя писать",
};
const TAGS = {
  bold: "strong", italic: "em", underline: "u", strikethrough: "s", code: "code", pre: "pre", spoiler: "span",
  blockquote: "blockquote", expandable_blockquote: "blockquote",
};
const chats = new Map();
const waiting = new Map();
const phones = document.getElementById("phones");
const tabs = document.getElementById("tabs");
let backlog = [];
let loading = true;
let drawing = false;

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// ---- text and entities

function spanOf(entity) {
  if (entity.type === "text_link" && /^https?:\/\//.test(entity.url || "")) return linkTo(entity.url);
  const tag = TAGS[entity.type];
  if (!tag) return null;
  const node = make(tag);
  if (entity.type === "spoiler") {
    node.className = "spoiler";
    node.addEventListener("click", () => node.classList.add("open"));
  }
  if (entity.type === "expandable_blockquote") {
    node.className = "expandable";
    node.addEventListener("click", () => node.classList.toggle("open"));
  }
  return node;
}

function linkTo(url, className) {
  const link = make("a", className);
  link.href = url;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  return link;
}

// Entities count in UTF-16 units, as JavaScript's strings do. Overlapping ones are closed and opened again at the edges.
function drawText(into, text, entities = []) {
  const edges = new Set([0, text.length]);
  for (const { offset, length } of entities) edges.add(Math.min(offset, text.length)).add(Math.min(offset + length, text.length));
  const sorted = [...entities].sort((a, b) => a.offset - b.offset || b.length - a.length);
  const ordered = [...edges].sort((a, b) => a - b);
  let open = [];
  for (let i = 0; i + 1 < ordered.length; i++) {
    const covering = sorted.filter((e) => TAGS[e.type] || e.type === "text_link")
      .filter((e) => e.offset <= ordered[i] && ordered[i + 1] <= e.offset + e.length);
    let kept = 0;
    while (kept < open.length && kept < covering.length && open[kept].entity === covering[kept]) kept++;
    open = open.slice(0, kept);
    for (const entity of covering.slice(kept)) {
      const node = spanOf(entity);
      if (!node) continue;
      (open.length ? open[open.length - 1].node : into).append(node);
      open.push({ entity, node });
    }
    let part = text.slice(ordered[i], ordered[i + 1]);
    if (!open.length && into.lastChild && /^(BLOCKQUOTE|PRE)$/.test(into.lastChild.nodeName)) part = part.replace(/^\n/, "");
    (open.length ? open[open.length - 1].node : into).append(part);
  }
}

// ---- messages

function drawMessage(chat, message) {
  if (message.pinned_message) return make("div", "service", "Сообщение закреплено");
  const author = message.from || {};
  const isOwn = Boolean(message.from) && !author.is_bot;
  const node = make("article", isOwn ? "message own" : "message");
  const bubble = make("div", message.edit_date ? "bubble edited" : "bubble");
  if (chat.kind !== "private" && !isOwn && author.first_name) {
    const name = make("span", "author", author.first_name);
    name.style.setProperty("--hue", hueOf(author.id));
    bubble.append(name);
  }
  if (message.reply_to_message) bubble.append(make("span", "reply", (message.reply_to_message.text || "…").split("\n")[0]));
  const words = make("div", "words");
  if (message.photo) words.append("🖼 ");
  const file = message.voice || message.audio || message.document;
  if (file) words.append(drawFile(message, file));
  drawText(words, message.text || message.caption || "", message.text ? message.entities : message.caption_entities);
  bubble.append(words, make("span", "stamp", (message.edit_date ? "изм. " : "") + timeOf(message.date)));
  node.append(bubble);
  if (message.reply_markup) node.append(drawKeys(chat, message));
  return node;
}

// A bubble with a player; where the simulator has not got the bytes (a URL, a restart), the name alone is left.
function drawFile(message, file) {
  const node = make("div", "file");
  const size = file.file_size ? ` · ${Math.max(1, Math.round(file.file_size / 1024))} КБ` : "";
  const name = message.voice ? "Голосовое сообщение" : file.title || file.file_name || "Файл";
  node.append(make("span", "name", `${message.document ? "📄" : "🔉"} ${name}${size}`));
  if (message.document && !/^audio\//.test(file.mime_type || "")) return node;
  const player = make("audio");
  player.controls = true;
  player.preload = "none";
  player.src = `/sim/files/${encodeURIComponent(file.file_id)}`;
  player.addEventListener("error", () => player.remove());
  node.append(player);
  return node;
}

function drawKeys(chat, message) {
  const keys = make("div", "keys");
  for (const row of message.reply_markup.inline_keyboard) {
    const line = make("div", "row");
    for (const button of row) line.append(drawKey(chat, message, button));
    keys.append(line);
  }
  return keys;
}

function drawKey(chat, message, button) {
  if (button.url) {
    const link = /^https?:\/\//.test(button.url) ? linkTo(button.url, "outside") : make("span");
    link.textContent = button.text;
    return link;
  }
  const key = make("button", "", button.text);
  key.type = "button";
  key.addEventListener("click", async () => {
    if (button.copy_text) return navigator.clipboard?.writeText(button.copy_text.text);
    if (!button.callback_data) return undefined;
    key.classList.add("busy");
    const order = { bot_id: chat.bot_id, chat_id: chat.chat_id, message_id: message.message_id, data: button.callback_data };
    const answer = await post("/sim/press", order);
    if (answer.callback_query_id) waiting.set(answer.callback_query_id, { key, chat });
    setTimeout(() => key.classList.remove("busy"), 15000);
    return undefined;
  });
  return key;
}

function timeOf(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("ru", { hour: "2-digit", minute: "2-digit" });
}

function dayOf(seconds) {
  const day = new Date(seconds * 1000);
  if (day.toDateString() === new Date().toDateString()) return "Сегодня";
  return day.toLocaleDateString("ru", { day: "numeric", month: "long" });
}

function hueOf(id) {
  return [212, 265, 28, 155, 340, 190, 10][Math.abs(id) % 7];
}

// ---- chats

const keyOf = ({ bot_id, chat_id }) => `${bot_id}/${chat_id}`;

async function post(path, order) {
  const response = await fetch(path, { method: "POST", body: JSON.stringify(order) });
  return response.json();
}

function openPhone(summary) {
  const chat = { ...summary, nodes: new Map(), lastDay: "", root: make("section", "phone"), tab: make("button") };
  const talk = chat.talk = make("div", "talk");
  talk.setAttribute("aria-live", "polite");
  chat.head = make("header");
  chat.foot = make("div");
  chat.root.append(chat.head, talk, chat.foot);
  chat.root.dataset.chat = keyOf(chat);
  chat.tab.type = "button";
  chat.tab.addEventListener("click", () => chat.root.scrollIntoView({ behavior: "smooth", inline: "center" }));
  phones.append(chat.root);
  tabs.append(chat.tab);
  chats.set(keyOf(chat), chat);
  sight.observe(chat.root);
  describe(chat, summary);
  return chat;
}

function describe(chat, summary) {
  Object.assign(chat, { title: summary.title, bot_name: summary.bot_name, kind: summary.kind, state: summary.state });
  const avatar = make("div", "avatar", initials(chat.title));
  avatar.style.setProperty("--hue", hueOf(chat.chat_id));
  const who = make("div", "who");
  who.append(make("b", "", chat.title), make("span", "", chat.bot_name));
  chat.head.replaceChildren(avatar, who);
  chat.tab.textContent = chat.title;
  const closed = CLOSED[chat.state];
  chat.foot.replaceChildren(closed ? make("div", "closed", closed) : drawForm(chat));
}

function initials(title) {
  const words = title.split(/\s+/).filter(Boolean);
  const last = words[words.length - 1] || "";
  if (/^\d+$/.test(last)) return last.slice(-2);
  return words.slice(0, 2).map((word) => [...word][0].toUpperCase()).join("");
}

function drawForm(chat) {
  const form = make("form");
  const input = make("input");
  Object.assign(input, { placeholder: "Сообщение", autocomplete: "off", maxLength: 4096, ariaLabel: "Сообщение боту" });
  const send = make("button", "", "➤");
  send.ariaLabel = "Отправить";
  form.append(input, send);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (text) post("/sim/messages", { bot_id: chat.bot_id, chat_id: chat.chat_id, text });
    input.value = "";
  });
  return form;
}

function isAtEnd(talk) {
  return talk.scrollHeight - talk.scrollTop - talk.clientHeight < 120;
}

function put(chat, message, animated) {
  const old = chat.nodes.get(message.message_id);
  const follows = isAtEnd(chat.talk);
  const node = drawMessage(chat, message);
  const authorId = message.from?.id;
  if (old) {
    node.classList.toggle("follows", old.classList.contains("follows"));
    old.replaceWith(node);
    if (animated) node.classList.add("changed");
  } else {
    const day = dayOf(message.date);
    node.classList.toggle("follows", day === chat.lastDay && authorId === chat.lastAuthorId);
    if (day !== chat.lastDay) chat.talk.append(make("div", "day", (chat.lastDay = day)));
    chat.lastAuthorId = authorId;
    if (animated) node.classList.add("arriving");
    chat.talk.append(node);
  }
  chat.nodes.set(message.message_id, node);
  for (const quote of node.querySelectorAll("blockquote.expandable")) {
    if (quote.scrollHeight <= quote.clientHeight + 1) quote.classList.add("fits");
  }
  if (chat.nodes.size > SHOWN_MESSAGES) {
    const [oldest, oldestNode] = chat.nodes.entries().next().value;
    chat.nodes.delete(oldest);
    oldestNode.remove();
  }
  if (follows) chat.talk.scrollTop = chat.talk.scrollHeight;
  if (animated && !chat.inSight) chat.tab.classList.add("unread");
}

function take(chat, messageId) {
  const node = chat.nodes.get(messageId);
  if (!node) return;
  chat.nodes.delete(messageId);
  if (!node.classList.contains("follows")) node.nextElementSibling?.classList.remove("follows");
  node.style.setProperty("--height", `${node.offsetHeight}px`);
  node.classList.remove("arriving", "changed");
  node.classList.add("leaving");
  node.addEventListener("animationend", (event) => { if (event.target === node) node.remove(); });
}

const sight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const chat = chats.get(target.dataset.chat);
    if (!chat) continue;
    chat.inSight = isIntersecting;
    chat.tab.classList.toggle("on", isIntersecting);
    if (isIntersecting) chat.tab.classList.remove("unread");
  }
}, { root: phones, threshold: 0.5 });

// ---- following the simulator

async function load() {
  loading = true;
  const summaries = await (await fetch("/sim/chats")).json();
  const recent = [...summaries].sort((a, b) => b.last_at - a.last_at).slice(0, SHOWN_CHATS);
  const shown = summaries.filter((summary) => recent.includes(summary));
  const contents = await Promise.all(shown.map(fetchChat));
  chats.clear();
  phones.replaceChildren();
  tabs.replaceChildren();
  for (const content of contents.filter((content) => content.messages)) {
    const chat = openPhone(content);
    for (const message of content.messages) put(chat, message, false);
    chat.talk.scrollTop = chat.talk.scrollHeight;
  }
  loading = false;
  redraw();
}

async function fetchChat(summary) {
  return (await fetch(`/sim/chats/${keyOf(summary)}?last=${SHOWN_MESSAGES}`)).json();
}

function redraw() {
  document.getElementById("empty").hidden = chats.size > 0;
  tabs.hidden = chats.size < 2;
  if (!loading && backlog.length && !drawing) {
    drawing = true;
    requestAnimationFrame(drawBacklog);
  }
}

async function drawBacklog() {
  const events = backlog;
  backlog = [];
  if (events.some((event) => event.type === "reset")) {
    await load();
  } else {
    for (const event of events) await apply(event);
  }
  drawing = false;
  redraw();
}

async function apply(event) {
  if (event.type === "answer") return showAnswer(event);
  let chat = chats.get(keyOf(event));
  if (!chat || event.type === "chat") {
    const content = await fetchChat(event);
    if (!content.messages) return undefined;
    if (chat) describe(chat, content);
    else if (chats.size < SHOWN_CHATS) chat = openPhone(content);
  }
  if (!chat || !event.message) return undefined;
  if (event.type === "delete") take(chat, event.message.message_id);
  else put(chat, event.message, true);
  return undefined;
}

function showAnswer(event) {
  const pressed = waiting.get(event.callback_query_id);
  if (!pressed) return;
  waiting.delete(event.callback_query_id);
  pressed.key.classList.remove("busy");
  if (!event.text) return;
  const toast = make("div", "toast", event.text);
  pressed.chat.root.append(toast);
  setTimeout(() => toast.remove(), 3500);
}

function follow() {
  const link = document.getElementById("link");
  const events = new EventSource("/sim/events");
  events.onopen = () => {
    link.textContent = "на связи";
    link.className = "live";
    backlog = [];
    load();
  };
  events.onerror = () => {
    link.textContent = "нет связи";
    link.className = "";
  };
  events.onmessage = ({ data }) => {
    backlog.push(JSON.parse(data));
    redraw();
  };
}

follow();
