const list = element.querySelector('ul'), find = element.querySelector('.find');
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const when = (made) => {
  if (!made) return '';
  const then = new Date(made);
  const isToday = then.toDateString() === new Date().toDateString();
  return isToday ? then.toLocaleTimeString(undefined, { timeStyle: 'short' }) : then.toLocaleDateString(undefined, { dateStyle: 'medium' });
};
let data = { runs: [], chosen: '', total: 0 };
// Twins beside each other, where the newer of them is.
const grouped = (runs) => {
  const pairs = new Map();
  runs.forEach((run) => { if (run.pair) pairs.set(run.pair, [...(pairs.get(run.pair) ?? []), run]); });
  const done = new Set();
  return runs.flatMap((run) => {
    const pair = (pairs.get(run.pair) ?? []).length > 1 ? pairs.get(run.pair) : null;
    if (!pair) return [{ ...run, twin: '' }];
    if (done.has(run.pair)) return [];
    done.add(run.pair);
    return pair.map((twin, place) => ({ ...twin, twin: place === pair.length - 1 ? 'last' : 'first' }));
  });
};
const row = () => {
  const item = document.createElement('li');
  const button = document.createElement('button');
  button.type = 'button';
  button.append(...['dot', 'name', 'state'].map((kind) => Object.assign(document.createElement('span'), { className: kind })));
  item.append(button);
  return item;
};
const fill = (item, run) => {
  const button = item.firstChild;
  item.dataset.twin = run.twin;
  button.dataset.run = run.id;
  button.dataset.state = run.state;
  button.setAttribute('aria-current', String(run.id === data.chosen));
  put(button.children[1], run.name);
  const step = run.steps && run.step < run.steps ? ` ${run.step.toLocaleString('en')} / ${run.steps.toLocaleString('en')}` : '';
  put(button.children[2], `${run.state}${step} \u00b7 ${when(run.made)}`);
  button.title = run.id;
};
const draw = (runs, total) => {
  const rows = grouped(runs);
  const old = new Map([...list.children].map((item) => [item.firstChild.dataset.run, item]));
  rows.forEach((run, place) => {
    const item = old.get(run.id) ?? row();
    old.delete(run.id);
    fill(item, run);
    if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null);
  });
  old.forEach((item) => item.remove());
  const empty = element.querySelector('.empty'), more = element.querySelector('.more');
  empty.hidden = rows.length > 0;
  put(empty, find.value ? 'No run fits.' : 'No run yet. Choose pictures, then a preset, and press Start.');
  more.hidden = total <= runs.length;
  put(more, `${total - runs.length} older runs: search for them.`);
};
let asked = 0;
const search = async () => {
  const text = find.value.trim(), number = ++asked;
  if (!text) return draw(data.runs, data.total);
  const answer = await fetch(`/train/runs?find=${encodeURIComponent(text)}`).catch(() => null);
  if (!answer?.ok || number !== asked) return undefined;
  const runs = await answer.json();
  return draw(runs, runs.length);
};
let typing = 0;
find.addEventListener('input', () => { clearTimeout(typing); typing = setTimeout(search, 150); });
show((value) => { data = value; search(); });
list.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (button) trigger('select', { run: button.dataset.run });
});
element.addEventListener('keydown', (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const buttons = [...list.querySelectorAll('button')];
  const place = buttons.indexOf(document.activeElement);
  if (!step || !buttons.length) return;
  event.preventDefault();
  (place + step < 0 ? find : buttons[Math.min(place + step, buttons.length - 1)]).focus();
});
// Folded away, nothing of the sidebar takes the focus. Train asks for the list where a run is gone.
const bar = element.closest('.sidebar'), inside = bar.querySelector('.sidebar-content');
let isAskedFor = false;
const follow = () => {
  inside.inert = !bar.classList.contains('open');
  if (isAskedFor && !inside.inert) { isAskedFor = false; find.focus(); }
};
new MutationObserver(follow).observe(bar, { attributeFilter: ['class'] });
follow();
document.addEventListener('show-runs', () => {
  isAskedFor = true;
  if (inside.inert) bar.querySelector('.toggle-button').click();
  else follow();
});
