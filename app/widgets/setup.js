const TOP = ['model.base', 'train.twin', 'adapter.kind', 'adapter.norm_axis', 'adapter.rank', 'adapter.alpha', 'train.steps', 'name'];
const AT_REST_MS = 250; // of typing, before it is sent
const make = (tag, props = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), props);
  made.append(...children);
  return made;
};
let data = null;
let answeredAt = 0;
// Typed, and not known to be on disk yet. Gradio builds the page anew when its server was away, a person by F5.
const UNSAVED = 'dora-studio-unsaved';
const pending = new Map(JSON.parse(sessionStorage.getItem(UNSAVED) ?? '[]'));
const rows = new Map(); // key -> { box, control, get, set, title }
const typed = (key) => pending.get(key) ?? data.typed[key];
const shown = (key) => typed(key) ?? data.below[key];

// What is typed goes to the draft when the keys rest; one request at a time carries all that came meanwhile.
let resting = 0;
let sending = null;
const state = (text) => {
  part('.state').textContent = text;
  sessionStorage.setItem(UNSAVED, JSON.stringify([...pending]));
};
const send = async () => {
  try {
    while (pending.size) {
      const sent = [...pending];
      const answer = await post('/setup/edit', { values: Object.fromEntries(sent) });
      for (const [key, text] of sent) if (pending.get(key) === text) pending.delete(key);
      draw(answer);
    }
    state('saved');
  } catch (error) {
    state(`not saved: ${error.message}`);
    resting = setTimeout(flush, 2000);
  }
};
const flush = () => {
  clearTimeout(resting);
  sending ??= send().finally(() => { sending = null; });
  return sending;
};
const edit = (key, text, now) => {
  pending.set(key, text);
  state('');
  clearTimeout(resting);
  resting = setTimeout(flush, now ? 0 : AT_REST_MS);
};
const act = async (path, body) => {
  await flush();
  try { draw(await post(path, body)); return ''; } catch (error) { state(error.message); return error.message; }
};

// A setting: its title and key, what is typed, what it means, what is wrong with it, and the way back to the preset.
const CONTROLS = {
  text: () => make('input', { type: 'text', autocomplete: 'off', spellcheck: false }),
  lines: () => make('textarea', { rows: 3, placeholder: 'one a line' }),
  choice: (field) => make('select', {}, ...field.choices.map((each) => make('option', { value: each, textContent: each || 'not set' }))),
  switch: () => make('input', { type: 'checkbox' }),
};
const control = (field) => {
  const made = (CONTROLS[field.control] ?? CONTROLS.text)(field);
  if (field.control.startsWith('number')) Object.assign(made, { placeholder: field.is_optional ? 'not set' : field.expects, inputMode: 'decimal' });
  return made;
};
const back = (title, keys) => {
  const button = make('button', { type: 'button', className: 'back', ariaLabel: `${title}: back to preset` });
  button.addEventListener('click', () => { for (const key of keys) pending.delete(key); act('/setup/reset', { keys }); });
  return button;
};
const framed = (field, keys, named, inner, classes = '') => {
  const box = make('div', { className: `setting ${classes}` });
  box.dataset.key = field.key;
  const help = make('p', { className: 'help', id: `help-${field.key}`, textContent: field.help });
  const error = make('p', { className: 'error', id: `error-${field.key}`, hidden: true });
  error.setAttribute('role', 'alert');
  box.append(make('div', { className: 'title' }, named, back(field.title, keys)), inner, help, error);
  return { box, title: field.title, help, error, keys };
};
const setting = (field, classes) => {
  const made = control(field);
  const id = `set-${field.key}`;
  made.id = id;
  made.setAttribute('aria-describedby', `help-${field.key} error-${field.key}`);
  const isSwitch = made.type === 'checkbox';
  const label = make('label', { htmlFor: id, textContent: field.title });
  const row = framed(field, [field.key], label, isSwitch ? make('div', { className: 'switch' }, made, make('span', { textContent: 'on' })) : made, classes);
  if (!TOP.includes(field.key)) row.box.querySelector('.title label').after(make('code', { textContent: field.key }));
  const get = () => (isSwitch ? String(made.checked) : made.value);
  const set = (text) => { if (isSwitch) made.checked = text === 'true'; else if (made.value !== text) made.value = text; };
  const isTyped = !isSwitch && made.tagName !== 'SELECT';
  made.addEventListener(isTyped ? 'input' : 'change', () => edit(field.key, get(), !isTyped));
  if (isTyped) made.addEventListener('blur', () => { if (pending.size) flush(); else draw(data); });
  rows.set(field.key, { ...row, control: made, set, isTyped });
  return row.box;
};
// Radio buttons in a row; `choose` says which settings a choice means, `chosen` which choice the settings mean.
const segments = (field, choices, keys, choose, chosen, classes) => {
  const group = make('div', { className: 'segments' });
  group.setAttribute('role', 'radiogroup');
  group.setAttribute('aria-label', field.title);
  group.setAttribute('aria-describedby', `help-${field.key} error-${field.key}`);
  const inputs = choices.map(([value, text]) => {
    const input = make('input', { type: 'radio', name: `set-${field.key}`, value });
    input.addEventListener('change', () => { for (const [key, to] of choose(value)) edit(key, to, true); });
    group.append(make('label', {}, input, text));
    return input;
  });
  const row = framed(field, keys, make('span', { className: 'name', textContent: field.title }), group, classes);
  const set = () => { for (const input of inputs) input.checked = input.value === chosen(); };
  for (const key of keys) rows.set(key, { ...row, control: inputs[0], inputs, set, isTyped: false });
  return row.box;
};
const kind = () => (shown('train.twin') === 'true' ? 'both' : shown('adapter.kind'));
const choosesKind = (value) => (value === 'both' ? [['train.twin', 'true']] : [['train.twin', 'false'], ['adapter.kind', value]]);

const build = () => {
  const all = new Map(data.sections.flatMap((section) => section.fields.map((field) => [field.key, field])));
  const named = (key, title) => ({ ...all.get(key), title: title ?? all.get(key).title });
  const axis = { ...named('adapter.norm_axis', 'Normalisation'), help: '' };
  part('.top').append(
    setting(named('model.base'), 'half'),
    segments({ ...named('adapter.kind', 'Adapter'), help: '' }, [['lora', 'LoRA'], ['dora', 'DoRA'], ['both', 'Both'], ['full', 'Full']], ['adapter.kind', 'train.twin'], choosesKind, kind),
    setting(named('name')),
    setting(named('adapter.rank'), 'narrow'),
    setting(named('adapter.alpha'), 'narrow'),
    segments(axis, [['input', 'Input dim'], ['output', 'Output dim']], ['adapter.norm_axis'], (value) => [['adapter.norm_axis', value]], () => shown('adapter.norm_axis')),
    setting(named('train.steps')),
  );
  const bases = make('datalist', { id: 'setup-bases' });
  rows.get('model.base').control.setAttribute('list', bases.id);
  rows.get('model.base').control.after(bases);
  part('.sections').append(...data.sections.map(section).filter((box) => box.querySelector('.setting')));
};
// What has one choice only is nothing to set.
const settable = (each) => each.fields.filter((field) => !TOP.includes(field.key) && field.choices.length !== 1);
const section = (each) => {
  const grid = make('fieldset', { className: 'grid', ariaLabel: `${each.title}, settings` }, ...settable(each).map((field) => setting(field)));
  const box = make('div', { className: 'section' });
  if (each.is_optional) {
    box.append(setting({ ...each, control: 'switch', expects: '', choices: [] }));
    rows.get(each.key).fields = grid;
  } else box.append(make('h4', { textContent: each.title }));
  box.append(grid);
  return box;
};

// Keys of settings within a sentence lead to their fields.
const linked = (sentence) => sentence.split(/([a-z_]+(?:\.[a-z_]+)+|^name\b)/).map((text) => (rows.has(text) ? link(text, text) : text));
const link = (key, text) => {
  const made = make('button', { type: 'button', className: 'link', textContent: text });
  made.addEventListener('click', () => go(key));
  return made;
};
const go = (key) => {
  const { control } = rows.get(key);
  if (control.closest('.advanced')) { part('.advanced').open = true; part('.filter input').value = ''; filter(); }
  control.scrollIntoView({ block: 'center' });
  control.focus();
};

// Drawn anew only when it changes: what is being clicked or read stays where it is.
const fresh = (node, value, children) => {
  const drawn = JSON.stringify(value);
  if (node.dataset.drawn !== drawn) node.replaceChildren(...children());
  node.dataset.drawn = drawn;
};
const draw = (next) => {
  if (data && next.changed_at < data.changed_at && Date.now() - answeredAt < 3000) return; // older than what was answered
  const isFirst = data === null;
  data = next;
  answeredAt = Date.now();
  if (isFirst) build();
  for (const [key, row] of rows) {
    if (!(row.isTyped && document.activeElement === row.control)) row.set(shown(key));
    const from = row.keys.filter((each) => each in data.typed);
    row.box.classList.toggle('changed', from.length > 0);
    row.box.querySelector('.back').textContent = row.inputs ? 'back to preset' : `back to ${data.below[key] || 'not set'}`;
    row.box.querySelector('.back').title = 'Back to preset';
    const wrong = data.problems.filter((problem) => row.keys.includes(problem.key)).map((problem) => problem.sentence);
    row.error.textContent = wrong.join(' ');
    row.error.hidden = !wrong.length;
    row.control.setAttribute('aria-invalid', String(wrong.length > 0));
    if (row.fields) row.fields.disabled = shown(key) !== 'true';
  }
  hints();
  presets();
  plan();
  if (isFirst) filter();
};
const hints = () => {
  const [rank, alpha] = ['adapter.rank', 'adapter.alpha'].map((key) => Number(shown(key) || NaN));
  const isRoot = shown('adapter.rank_stabilised') === 'true';
  const scale = (Number.isNaN(alpha) ? rank : alpha) / (isRoot ? Math.sqrt(rank) : rank);
  rows.get('adapter.alpha').help.textContent = Number.isFinite(scale) ? `alpha / ${isRoot ? '√rank' : 'rank'} = ${Number(scale.toPrecision(3))}` : '';
  rows.get('adapter.alpha').control.placeholder = 'as rank';
  rows.get('model.base').help.textContent = data.base;
  fresh(part('#setup-bases'), data.bases, () => data.bases.map((value) => make('option', { value })));
  if (kind() === 'full') rows.get('adapter.alpha').help.textContent = '';
  for (const key of ['adapter.rank', 'adapter.alpha']) rows.get(key).control.disabled = kind() === 'full';
  const axis = rows.get('adapter.norm_axis');
  for (const input of axis.inputs) input.disabled = ['lora', 'full'].includes(kind());
  const ofDora = { lora: 'Of DoRA only: LoRA renders exactly everywhere.', full: 'Of DoRA only.' }[kind()];
  axis.help.textContent = ofDora ?? data.axes[shown('adapter.norm_axis')] ?? '';
  rows.get('adapter.kind').help.textContent = { lora: 'A low-rank update.', dora: 'LoRA with a magnitude of its own.', both: 'Twin runs that differ in nothing else.', full: 'The weights themselves: a file as large as they are.' }[kind()] ?? '';
  const { plan } = data;
  rows.get('train.steps').help.textContent = plan ? `${plan.passes} passes over ${plan.pictures} pictures${plan.time ? `, about ${plan.time}` : ''}` : '';
};
const presets = () => {
  const cards = part('.cards');
  fresh(cards, data.cards, () => data.cards.map(card));
  for (const input of cards.querySelectorAll('input')) input.checked = input.value === data.preset;
  fresh(part('.broken'), data.broken, () => data.broken.map((each) => make('li', { textContent: `${each.file} is left out: ${each.reason}` })));
  const keys = Object.keys(data.typed);
  const list = () => keys.slice(0, 12).flatMap((key) => [' ', link(key, rows.get(key).title)]);
  fresh(part('.changes span'), keys, () => (keys.length ? ['Changed:', ...list(), keys.length > 12 ? ` and ${keys.length - 12} more` : ''] : ['As the preset has it.']));
  part('.all').hidden = !keys.length;
  part('.undo').hidden = !data.undo;
  part('.advanced .count').textContent = `${keys.filter((key) => !TOP.includes(key)).length || 'none'} changed`;
  const runs = part('.fill select');
  fresh(runs, data.runs, () => [make('option', { value: '', textContent: data.runs.length ? 'choose' : 'none yet' }), ...data.runs.map((run) => make('option', { value: run.id, textContent: run.id }))]);
  runs.disabled = !data.runs.length;
  part('.note').hidden = !data.note;
  part('.note').textContent = data.note;
};
const card = (preset) => {
  const input = make('input', { type: 'radio', name: 'preset', value: preset.name });
  input.addEventListener('change', () => act('/setup/preset', { name: preset.name }));
  const figures = make('div', { className: 'figs' }, ...preset.figures.map((text) => make('span', { textContent: text })));
  return make('label', { className: 'card' }, input, make('b', { textContent: preset.title }), make('p', { textContent: preset.summary }), figures);
};
// Sets beside the first one. The field of `data.more`, below Advanced, has the rest of what can be said of them.
const beside = () => {
  const { listed, others } = data.beside;
  const focused = document.activeElement?.getAttribute('aria-label');
  fresh(part('.beside'), listed, () => listed.map(besideRow));
  if (document.activeElement === document.body && focused) [...part('.beside').querySelectorAll('input')].find((input) => input.ariaLabel === focused)?.focus();
  fresh(part('.add select'), others, () => [make('option', { value: '', textContent: 'choose' }), ...others.map((set) => make('option', { value: set.id, textContent: set.name }))]);
  part('.add').hidden = !others.length;
};
const besideRow = (set) => {
  const repeats = make('input', { type: 'number', min: 1, max: 1000, value: set.repeats, ariaLabel: `Repeats of ${set.name}` });
  repeats.addEventListener('change', () => { if (repeats.value && repeats.checkValidity()) act('/setup/beside/repeat', { folder: set.folder, repeats: Number(repeats.value) }); });
  const remove = make('button', { type: 'button', className: 'link', textContent: 'Remove', ariaLabel: `Remove ${set.name}` });
  remove.addEventListener('click', () => act('/setup/beside/repeat', { folder: set.folder, repeats: 0 }));
  const said = `${set.pictures} pictures of ${set.name}${set.prompt ? `, “${set.prompt}”` : ''}${set.is_kept ? ', as the base model draws them' : ''}`;
  return make('li', {}, make('span', { textContent: said }), make('label', {}, 'repeats ', repeats), remove, link('data.more', 'More options'));
};
let starting = false;
const plan = () => {
  const { plan, set, problems } = data;
  part('.pictures span').textContent = set ? `${set.count} pictures of ${set.name}.` : shown('data.folder') ? `Pictures in ${shown('data.folder')}.` : 'No pictures yet.';
  const figure = (title, value, of, isMuch) => make('div', { className: isMuch ? 'much' : '' }, make('dt', { textContent: title }), make('dd', {}, value || '–', make('span', { className: 'of', textContent: of })));
  beside();
  fresh(part('.figures'), plan, () => (plan ? [
    figure('Memory', plan.memory, `of ${plan.have}`, plan.share > 0.95),
    figure('Time', plan.time, plan.time ? 'of steps' : 'the first run with this base model tells'),
    figure('Disk', plan.disk, plan.free),
    figure('Passes', plan.passes, `over ${plan.pictures} pictures`),
  ] : []));
  fresh(part('.problems'), problems, () => problems.map((problem) => make('li', {}, ...linked(problem.sentence))));
  fresh(part('.notices'), data.notices, () => data.notices.map((text) => make('li', {}, ...linked(text))));
  part('.rows').hidden = !plan;
  fresh(part('.rows dl'), plan?.rows, () => (plan?.rows ?? []).flatMap((row) => [make('dt', { textContent: row.title }), make('dd', { textContent: row.text })]));
  part('.shown').hidden = !data.command;
  for (const name of ['command', 'toml']) fresh(part(`pre.${name}`), data[name], () => [data[name]]);
  const start = part('.start');
  start.disabled = starting || problems.length > 0;
  start.textContent = kind() === 'both' ? 'Start both runs' : 'Start training';
  const waits = data.ahead ? `Waits behind ${data.ahead} ${data.ahead === 1 ? 'job' : 'jobs'} in the queue.` : '';
  part('.reason').textContent = starting ? 'Starting' : problems.length ? `Cannot start: ${problems.length === 1 ? 'the problem above' : `${problems.length} problems above`}.` : waits;
};
const filter = () => {
  if (!data) return; // the first draw comes to it
  const words = part('.filter input').value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (row) => words.every((word) => `${row.title} ${row.keys.join(' ')} ${row.help.textContent}`.toLowerCase().includes(word));
  for (const box of part('.sections').children) {
    const inside = [...box.querySelectorAll('.setting')];
    for (const each of inside) each.hidden = !fits(rows.get(each.dataset.key));
    box.hidden = !inside.some((each) => !each.hidden);
  }
  const above = words.length ? TOP.filter((key) => fits(rows.get(key))) : [];
  const count = part('.sections').querySelectorAll('.setting:not([hidden])').length;
  part('.found').replaceChildren(...(words.length ? [`${count} found. `, ...above.flatMap((key) => [link(key, rows.get(key).title), ' above. '])] : []));
};
part('.filter input').addEventListener('input', filter);
part('.all').addEventListener('click', () => { pending.clear(); act('/setup/reset', { keys: Object.keys(data.typed) }); });
part('.undo').addEventListener('click', () => act('/setup/undo'));
part('.fill select').addEventListener('change', (event) => { if (event.target.value) act('/setup/fill', { name: event.target.value }); });
part('.pictures .link').addEventListener('click', () => trigger('pictures'));
part('.add select').addEventListener('change', (event) => { if (event.target.value) act('/setup/beside/add', { name: event.target.value }); });
part('.keep form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = event.target;
  const wrong = await act('/setup/save-preset', { name: form.elements.name.value });
  part('.told').textContent = wrong || 'Saved: it is among the presets now.';
  if (!wrong) form.reset();
});
element.addEventListener('click', async (event) => {
  const from = event.target.closest('[data-copy]')?.dataset.copy;
  if (!from) return;
  getSelection().selectAllChildren(part(from)); // to be copied by hand where the browser lets no page do it
  try { await navigator.clipboard.writeText(part(from).textContent); event.target.textContent = 'Copied'; } catch { event.target.textContent = 'Selected: press Ctrl+C'; }
});
part('.start').addEventListener('click', async () => {
  if (starting) return;
  starting = true;
  plan();
  const { key } = data;
  let wrong = '';
  try {
    await flush();
    const begun = await post('/setup/start', { key });
    trigger('started', { run: begun.run });
  } catch (error) { wrong = error.message; }
  starting = false;
  plan();
  if (wrong) part('.reason').textContent = wrong;
});
show(draw);
if (pending.size) flush();
