const select = part('select');
const ask = part('.ask');
const line = part('.line');
const input = part('.ask input');
let data = { sets: [], chosen: '' };
const chosen = () => data.sets.find((set) => set.id === data.chosen);
const count = (set) => `${set.name} · ${set.count} picture${set.count === 1 ? '' : 's'}`;
show((next) => {
  data = next;
  const options = data.sets.map((set) => {
    const option = document.createElement('option');
    option.value = set.id;
    option.textContent = count(set);
    return option;
  });
  select.replaceChildren(...options);
  select.value = data.chosen;
  select.disabled = !data.sets.length;
  for (const name of ['rename', 'duplicate', 'delete', 'continue']) part(`[data-do=${name}]`).disabled = !chosen();
});
const run = async (path, body, told, undo) => {
  try {
    const answer = await post(path, body);
    say(line, told, undo?.(answer));
  } catch (error) {
    say(line, error.message);
  }
  changed();
};
let answer = null;
// A question below the bar, with a field for a name or without one.
const question = (text, name, yes, done) => {
  part('.ask .field span').textContent = text;
  input.hidden = name === null;
  input.required = name !== null;
  input.value = name ?? '';
  part('.ask .btn').textContent = yes;
  part('.ask .btn').classList.toggle('danger', name === null);
  answer = done;
  ask.hidden = false;
  (name === null ? part('.ask .btn') : input).focus();
};
const closed = (name) => { ask.hidden = true; part(`[data-do=${name}]`).focus(); };
const runs = async (set) => {
  const found = await fetch(`/sets/${set.id}/runs`).then(answered).catch(() => []);
  return found.length ? ` ${found.length === 1 ? 'A run uses' : `${found.length} runs use`} its pictures and cannot go on without them: ${found.slice(0, 3).join(', ')}${found.length > 3 ? '...' : ''}.` : '';
};
const doing = {
  new: () => question('Name of the new set', '', 'Create', (name) => run('/sets', { name }, 'A new set: drop pictures into it.')),
  rename: () => question('New name', chosen().name, 'Rename', (name) => run(`/sets/${data.chosen}/rename`, { name }, 'Renamed.')),
  duplicate: () => run(`/sets/${data.chosen}/duplicate`, {}, 'This is the copy.'),
  delete: async () => {
    const set = chosen();
    const path = `/sets/${set.id}/delete`;
    question(`Delete "${set.name}" with its ${set.count} pictures?${await runs(set)}`, null, 'Delete', () => run(path, {}, `Deleted ${set.name}.`, (gone) => async () => {
      await post(`/sets/trash/${gone.thrown}/restore`);
      return `${set.name} is back.`;
    }));
  },
  keep: () => closed('new'),
  continue: () => trigger('setup'),
};
element.addEventListener('click', (event) => doing[event.target.closest('[data-do]')?.dataset.do]?.());
ask.addEventListener('submit', (event) => {
  event.preventDefault();
  closed('new');
  answer(input.value);
});
ask.addEventListener('keydown', (event) => { if (event.key === 'Escape') closed('new'); });
select.addEventListener('change', () => run(`/sets/${select.value}/choose`, {}, ''));
hear('new-set', () => doing.new());
