const grid = part('.grid');
const line = part('.line');
const blank = part('template').content.firstElementChild;
const SAVED_AFTER_MS = 700;
const SETTLES_MS = 1500; // a value that was on its way when a caption was saved does not bring the old one back
const cards = new Map();
let data = { set: '', pictures: [], most: 0 };
let selected = '';

const put = (node, key, value) => { if (node[key] !== value) node[key] = value; };
const words = (list, texts) => list.replaceChildren(...texts.map(([text, warns]) => {
  const item = document.createElement('li');
  item.textContent = text;
  item.classList.toggle('warn', warns);
  return item;
}));
const isDirty = (card) => card.text.value !== card.saved;
const mark = (card, text, state) => { card.state.textContent = text; card.state.dataset.state = state; };
const look = (card) => {
  if (card.id !== selected) cards.get(selected)?.node.removeAttribute('aria-current');
  selected = card.id;
  card.node.setAttribute('aria-current', 'true');
  announce('seen', { ...card.picture, typed: card.text.value.trim() });
};

const save = async (card) => {
  clearTimeout(card.timer);
  if (!isDirty(card)) return;
  const typed = card.text.value;
  card.saved = typed;
  mark(card, 'saving', 'saving');
  try {
    const stored = (await post(`/sets/${card.set}/captions`, { captions: { [card.id]: typed } }))[card.id];
    card.until = performance.now() + SETTLES_MS;
    if (isDirty(card)) return;
    if (document.activeElement !== card.text) card.text.value = card.saved = stored;
    mark(card, 'saved', 'saved');
    changed();
  } catch (error) {
    card.saved = null; // so that the next pause tries again
    mark(card, `not saved: ${error.message}`, 'failed');
  }
};
const remove = async (card) => {
  await save(card);
  const next = card.node.nextElementSibling ?? card.node.previousElementSibling;
  const name = card.picture.name;
  try {
    await post(`/sets/${card.set}/pictures/${encodeURIComponent(card.id)}/remove`);
    card.node.remove();
    cards.delete(card.id);
    if (selected === card.id) announce('seen', null);
    (next ?? line).querySelector('button')?.focus();
    say(line, `Removed ${name}.`, async () => {
      await post(`/sets/${card.set}/pictures/${encodeURIComponent(card.id)}/restore`);
      return `${name} is back.`;
    });
  } catch (error) { say(line, error.message); }
  changed();
};

const made = (id) => {
  const node = blank.cloneNode(true);
  const inside = (name) => node.querySelector(name);
  const card = { id, node, set: data.set, text: inside('textarea'), state: inside('.state'), saved: '', until: 0, timer: 0, seen: '' };
  node.dataset.picture = id;
  card.text.addEventListener('input', () => {
    clearTimeout(card.timer);
    mark(card, '', 'typed');
    card.timer = setTimeout(() => save(card), SAVED_AFTER_MS);
    look(card);
  });
  card.text.addEventListener('focus', () => look(card));
  card.text.addEventListener('blur', () => save(card));
  inside('.look').addEventListener('click', () => look(card));
  inside('.remove').addEventListener('click', () => remove(card));
  cards.set(id, card);
  return card;
};
const update = (card, picture) => {
  const text = JSON.stringify(picture);
  card.picture = picture;
  const isMine = document.activeElement === card.text || isDirty(card) || performance.now() < card.until;
  if (!isMine) card.text.value = card.saved = picture.caption;
  if (text === card.seen) return;
  card.seen = text;
  const inside = (name) => card.node.querySelector(name);
  inside('img').hidden = !picture.thumbnail;
  if (picture.thumbnail) put(inside('img'), 'src', new URL(picture.thumbnail, location.href).href);
  inside('.name').textContent = inside('.name').title = picture.name;
  inside('.size').textContent = picture.size;
  inside('.look').setAttribute('aria-label', `Show what the model will see of ${picture.name}`);
  inside('.remove').setAttribute('aria-label', `Remove ${picture.name}`);
  card.text.setAttribute('aria-label', `Caption of ${picture.name}`);
  card.text.maxLength = data.most;
  card.text.placeholder = picture.prompt || 'what is to be seen';
  words(inside('.words'), [...picture.warnings.map((warning) => [warning, true]), ...picture.told.map((told) => [told, false])]);
  if (card.id === selected) look(card);
};
const other = () => {
  for (const card of cards.values()) save(card);
  cards.clear();
  grid.replaceChildren();
  selected = '';
  announce('seen', null);
  say(line, '');
};
const empty = () => {
  const isThere = Boolean(data.set);
  part('.empty').hidden = data.pictures.length > 0;
  part('.empty p').textContent = isThere ? 'No picture in this set yet: 10 to 50 are usual.' : 'There is no image set yet.';
  part('.empty .btn').textContent = isThere ? 'Choose pictures' : 'New set';
};
show((next) => {
  if (next.set !== data.set) other();
  data = next;
  part('h3').textContent = data.pictures.length ? data.count : '';
  words(part('.notices'), data.notices.map((notice) => [notice, true]));
  empty();
  const there = new Set(data.pictures.map((picture) => picture.id));
  for (const card of [...cards.values()]) if (!there.has(card.id)) { card.node.remove(); cards.delete(card.id); }
  data.pictures.forEach((picture, place) => {
    const card = cards.get(picture.id) ?? made(picture.id);
    update(card, picture);
    if (grid.children[place] !== card.node) grid.insertBefore(card.node, grid.children[place] ?? null);
  });
});
part('.empty .btn').addEventListener('click', () => announce(data.set ? 'choose' : 'new-set'));
addEventListener('pagehide', () => { // what is typed goes along even as the page closes
  const captions = Object.fromEntries([...cards.values()].filter(isDirty).map((card) => [card.id, card.text.value]));
  if (!element.isConnected || !Object.keys(captions).length) return;
  fetch(`/sets/${data.set}/captions`, { method: 'POST', keepalive: true, headers: { 'content-type': 'application/json' }, body: JSON.stringify({ captions }) });
});
