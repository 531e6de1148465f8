const card = part('.card'), none = part('.none'), form = part('form'), title = part('h2');
const NAMES = { new: 'new', queued: 'queued', preparing: 'preparing', training: 'training', sampling: 'drawing samples', stopping: 'stopping', paused: 'paused', stopped: 'stopped', failed: 'failed', interrupted: 'interrupted', finished: 'finished' };
let now = null;
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
// Children stay as long as what they stand for does: focus stays where it is, and nothing flickers.
const keyed = (parent, rows, key, make, fill) => {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  rows.forEach((row, place) => {
    const child = old.get(String(key(row))) ?? make(row);
    child.dataset.key = key(row);
    old.delete(child.dataset.key);
    fill(child, row);
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
  });
  old.forEach((child) => child.remove());
};
const made = (tag, type) => Object.assign(document.createElement(tag), type ? { type } : {});
const tell = (text, wrong) => element.querySelectorAll('.said').forEach((line) => {
  line.textContent = text;
  line.classList.toggle('wrong', Boolean(wrong));
});
const ask = async (action, more) => {
  const run = now.run;
  element.querySelectorAll('.buttons button').forEach((button) => { button.disabled = true; });
  try {
    const answer = await post(`/train/${action}`, { run, ...more });
    tell(answer.said);
    if (now.run === run) render(answer.card);
    return true;
  } catch (error) {
    tell(error.message, true);
    return false;
  } finally {
    element.querySelectorAll('.buttons button').forEach((button) => { button.disabled = false; });
  }
};
const rename = (open) => {
  form.hidden = !open;
  title.hidden = open;
  if (open) { form.elements[0].value = now.title; form.elements[0].focus(); form.elements[0].select(); }
};
form.addEventListener('submit', async (event) => {
  event.preventDefault();
  if (await ask('rename', { name: form.elements[0].value })) rename(false);
});
form.addEventListener('keydown', (event) => { if (event.key === 'Escape') rename(false); });
part('[data-cancel]').addEventListener('click', () => rename(false));
part('[data-copy]').addEventListener('click', async (event) => {
  const button = event.currentTarget;
  try { await navigator.clipboard.writeText(now.path); button.textContent = 'Copied'; } catch { getSelection().selectAllChildren(part('.path span')); button.textContent = 'Selected'; }
  setTimeout(() => { button.textContent = 'Copy path'; }, 1500);
});
element.addEventListener('click', async (event) => {
  const button = event.target.closest('[data-action], [data-run]');
  if (!button) return;
  if (button.dataset.run) trigger('other', { run: button.dataset.run });
  else if (button.dataset.action === 'rename') rename(true);
  else if (button.dataset.action === 'list') document.dispatchEvent(new CustomEvent('show-runs'));
  else if (button.dataset.action === 'images') trigger('pictures');
  else if (await ask(button.dataset.action) && button.dataset.action === 'clone') trigger('setup');
});
const buttons = (parent, actions) => keyed(parent, actions, (one) => one.name, () => made('button', 'button'), (button, one) => {
  button.className = `btn ${one.look}`;
  button.dataset.action = one.name;
  put(button, one.label);
});
const renderNone = (data) => {
  put(none.querySelector('h2'), data.gone ? (data.trash ? 'This run is in the trash' : 'This run is gone') : 'No run yet');
  put(none.querySelector('.hint'), data.gone ? (data.trash ? 'It can be brought back until the trash is emptied.' : 'It was deleted, moved, or cannot be read.') : 'Choose pictures, then a preset, and press Start: the run is followed here.');
  const actions = data.gone ? [{ name: 'list', label: 'Show all runs', look: data.trash ? 'plain' : 'primary' }] : [{ name: 'images', label: 'Choose pictures', look: 'primary' }];
  if (data.trash) actions.unshift({ name: 'restore', label: 'Undo', look: 'primary' });
  buttons(none.querySelector('.buttons'), actions);
};
const renderCard = (data) => {
  card.dataset.state = data.state;
  card.dataset.late = String(data.late);
  put(title, data.title);
  put(part('.about'), data.about);
  put(part('.pill'), NAMES[data.state]);
  const share = data.steps ? Math.min(1, data.step / data.steps) : 0;
  const bar = part('.bar');
  bar.firstElementChild.style.width = `${share * 100}%`;
  bar.setAttribute('aria-valuemax', data.steps);
  bar.setAttribute('aria-valuenow', data.step);
  put(part('.message'), data.ahead ? `${data.message}: ${data.ahead} ${data.ahead === 1 ? 'job' : 'jobs'} before it.` : data.message);
  put(part('.fix'), data.fix);
  const trace = part('.trace');
  trace.hidden = !data.trace;
  put(trace.querySelector('pre'), data.trace);
  keyed(part('dl'), data.facts, (fact) => fact.name, () => {
    const row = made('div');
    row.append(made('dt'), made('dd'));
    return row;
  }, (row, fact) => {
    put(row.firstChild, fact.name);
    put(row.lastChild, fact.value);
    if (row.title !== fact.hint) row.title = fact.hint;
  });
  part('.headline').hidden = !data.headline;
  put(part('.headline'), data.headline);
  const notes = [...data.warnings, ...(data.skipped ? [`${data.skipped} ${data.skipped === 1 ? 'step was' : 'steps were'} skipped: nothing was changed there.`] : [])];
  part('.warnings').hidden = !notes.length;
  put(part('.warnings summary'), notes.length === 1 ? '1 note' : `${notes.length} notes`);
  keyed(part('.warnings ul'), notes.map((text, place) => ({ text, place })), (note) => note.place, () => made('li'), (item, note) => put(item, note.text));
  part('.twins').hidden = data.twins.length < 2;
  keyed(part('.twins'), data.twins, (twin) => twin.run, () => made('button', 'button'), (button, twin) => {
    button.dataset.run = twin.run;
    button.setAttribute('aria-current', String(twin.here));
    put(button, twin.label);
    button.title = twin.state;
  });
  buttons(card.querySelector('.buttons'), data.actions);
  put(part('.path span'), data.path);
};
const render = (data) => {
  if (now && now.run !== data.run) { tell(''); rename(false); }
  const known = Boolean(data.state);
  now = data;
  card.hidden = !known;
  none.hidden = known;
  (known ? renderCard : renderNone)(data);
};
show(render);
