const newKey = () => [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
const STATES = { proven: 'proven', wrong: 'not proven', changed: 'changed', none: 'no report', checking: 'checking' };
const ACTIONS = [['copy', 'Copy to ComfyUI'], ['workflow', 'ComfyUI workflow'], ['rename', 'Rename'], ['delete', 'Delete']];
let data = null;
const line = part('.undone');
const tell = (box, text, isBad = false) => { box.textContent = text; box.dataset.bad = String(isBad); };
const field = (title, input) => make('label', { className: 'field' }, title, Object.assign(input, { ariaLabel: title }));
const doing = async (button, told, act) => {
  button.disabled = true;
  try { await act(); } catch (error) { tell(told, error.message, true); }
  button.disabled = false;
};

// What a button of a file opens below it. Each gets the file's row as it was built; `item` of it is always the newest.
const OPENED = {
  copy: (row) => {
    const told = make('p', { className: 'told', role: 'status' });
    const folder = make('input', { type: 'text', value: data.comfyui, placeholder: 'the folder with ComfyUI\'s main.py', spellcheck: false, autocomplete: 'off' });
    const name = make('input', { type: 'text', value: row.item.name.slice(0, -row.item.ending.length), spellcheck: false, autocomplete: 'off' });
    const other = field('Another name', name);
    other.hidden = true;
    const button = make('button', { type: 'submit', className: 'btn primary', textContent: 'Copy' });
    const form = make('form', {}, make('div', { className: 'ask' }, field('ComfyUI folder', folder), other, button), told);
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      doing(button, told, async () => {
        const answer = await post('/adapters/copy', { key: row.item.key, folder: folder.value, name: other.hidden ? '' : name.value });
        tell(told, answer.told, answer.taken);
        other.hidden = !answer.taken;
        if (answer.taken) name.focus();
      });
    });
    return form;
  },
  workflow: (row) => {
    const told = make('p', { className: 'told', role: 'status', textContent: 'Looking for pictures.' });
    const box = make('div', {}, told);
    (async () => {
      try {
        const query = `file=${encodeURIComponent(row.item.key)}`;
        const { why, pictures } = await answered(await fetch(`/adapters/pictures?${query}`));
        if (why) { tell(told, why); return; }
        const select = make('select', {}, ...pictures.map((each) => make('option', { value: each.key, textContent: each.label })));
        const image = make('img', { alt: 'The picture that the workflow draws' });
        const links = ['json', 'png'].map((kind) => make('a', { className: 'btn', download: '', textContent: kind === 'json' ? 'Workflow (JSON)' : 'Picture with the workflow in it (PNG)' }));
        const notes = make('ol');
        const choose = async () => {
          const picture = pictures.find((each) => each.key === select.value);
          const chosen = `${query}&picture=${encodeURIComponent(picture.key)}`;
          image.src = picture.url;
          links.forEach((link, number) => { link.href = `/adapters/workflow.${['json', 'png'][number]}?${chosen}`; });
          notes.replaceChildren(...(await answered(await fetch(`/adapters/notes?${chosen}`))).map((text) => make('li', { textContent: text })));
        };
        select.addEventListener('change', () => choose().catch((error) => tell(told, error.message, true)));
        tell(told, '');
        box.prepend(make('div', { className: 'made-of' }, image, make('div', {}, field('Picture', select), make('div', { className: 'actions' }, ...links), notes)));
        await choose();
      } catch (error) { tell(told, error.message, true); }
    })();
    return box;
  },
  rename: (row) => {
    const told = make('p', { className: 'told', role: 'status' });
    const name = make('input', { type: 'text', value: row.item.name.slice(0, -row.item.ending.length), spellcheck: false, autocomplete: 'off' });
    const button = make('button', { type: 'submit', className: 'btn primary', textContent: 'Rename' });
    const form = make('form', {}, make('div', { className: 'ask' }, field(`Name, before ${row.item.ending}`, name), button), told);
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      doing(button, told, async () => { await post('/adapters/rename', { key: row.item.key, name: name.value }); tell(told, 'Renamed.'); });
    });
    return form;
  },
};
const toggle = (row, button, name) => {
  const open = button.getAttribute('aria-expanded') !== 'true';
  for (const each of row.querySelectorAll('.actions > [aria-expanded]')) each.setAttribute('aria-expanded', 'false');
  button.setAttribute('aria-expanded', String(open));
  const box = row.querySelector('.act');
  box.hidden = !open;
  box.replaceChildren(...(open ? [OPENED[name](row)] : []));
  if (open) box.querySelector('input')?.focus();
};
const thrown = async (row) => {
  const { key, name } = row.item;
  try {
    await post('/adapters/delete', { key });
    row.hidden = true; // the next look at the disk takes it away, unless it is back by then
    say(line, `${name} is in the trash.`, async () => { await post('/adapters/restore', { key }); row.hidden = false; return `${name} is back.`; });
  } catch (error) { say(line, error.message); }
};

const newFile = () => {
  const actions = ACTIONS.map(([name, title]) => {
    const button = make('button', { type: 'button', className: 'btn', textContent: title, data: { action: name } });
    if (name === 'delete') button.addEventListener('click', () => thrown(row));
    else { button.setAttribute('aria-expanded', 'false'); button.addEventListener('click', () => toggle(row, button, name)); }
    return button;
  });
  const row = make('article', { className: 'file' },
    make('div', { className: 'top' }, make('span', { className: 'name' }), make('span', { className: 'badge' }), make('span', { className: 'when' })),
    make('p', { className: 'facts' }), make('p', { className: 'where' }), make('p', { className: 'proof' }),
    make('details', { className: 'report' }, make('summary', { textContent: 'Parity report: what each program makes of it' }), make('div', { className: 'rows' }), make('p', { className: 'hint' })),
    make('p', { className: 'sha' }),
    make('div', { className: 'actions' }, make('a', { className: 'btn primary', download: '', textContent: 'Download' }), ...actions),
    make('div', { className: 'act', hidden: true }));
  return row;
};
const updateFile = (row, item) => {
  const drawn = JSON.stringify(item);
  row.item = item;
  if (row.dataset.drawn === drawn) return;
  row.dataset.drawn = drawn;
  const { proof } = item;
  row.ariaLabel = item.name;
  row.querySelector('.name').textContent = item.name;
  Object.assign(row.querySelector('.badge'), { textContent: STATES[proof.state] }).dataset.state = proof.state;
  row.querySelector('.when').textContent = `${item.size} · ${when(item.date)}`;
  row.querySelector('.facts').textContent = item.facts.join(' · ');
  row.querySelector('.where').textContent = item.where;
  Object.assign(row.querySelector('.proof'), { textContent: proof.text }).dataset.state = proof.state;
  row.querySelector('.report').hidden = !proof.rows.length;
  row.querySelector('.rows').replaceChildren(...proof.rows.flatMap((each) => [
    make('span', { className: 'word', textContent: each.word, data: { verdict: each.verdict } }),
    make('span', {}, each.program, make('small', { textContent: each.way })),
    make('span', { className: 'words', textContent: each.words }),
  ]));
  row.querySelector('.report .hint').textContent = proof.not.length ? `Not certified: ${proof.not.join('; ')}.` : '';
  row.querySelector('.sha').textContent = item.sha256 ? `SHA-256 ${item.sha256}` : '';
  row.querySelector('.actions a').href = item.url;
  row.querySelector('[data-action=copy]').hidden = !item.is_adapter;
  row.querySelector('[data-action=workflow]').hidden = !item.is_adapter;
};
const newGroup = (run) => {
  const select = make('select', { id: `export-${run.id}` });
  const told = make('p', { className: 'told', role: 'status' });
  const button = make('button', { type: 'button', className: 'btn', textContent: 'Export' });
  let key = newKey();
  select.addEventListener('change', () => where(group));
  button.addEventListener('click', () => doing(button, told, async () => {
    await post('/adapters/export', { run: run.id, target: select.value, key });
    key = newKey();
    tell(told, 'In the queue: the file will be in this list.');
  }));
  const group = make('section', { className: 'panel group', ariaLabel: run.name },
    make('header', {}, make('h3'), kindMark(run.kind), make('p', { className: 'hint about' })),
    make('div', { className: 'files' }),
    make('div', { className: 'export' }, make('label', { htmlFor: select.id, textContent: 'Export for another program' }), select, button, make('p', { className: 'hint exact' }), told));
  return group;
};
const where = (group) => {
  const target = group.run.targets.find((each) => each.name === group.querySelector('.export select').value);
  group.querySelector('.exact').textContent = target?.where ?? '';
};
const updateGroup = (group, run) => {
  group.run = run;
  group.querySelector('h3').textContent = run.name;
  group.querySelector('.about').textContent = [run.id, run.axis ? `${run.axis} axis` : '', run.rank ? `rank ${run.rank}` : '', run.base].filter(Boolean).join(' · ');
  const select = group.querySelector('.export select');
  const names = run.targets.map((each) => each.name).join();
  if (select.dataset.names !== names) {
    const wanted = run.targets.find((each) => !each.is_there);
    select.replaceChildren(...run.targets.map((each) => make('option', { value: each.name, textContent: each.title, selected: each === wanted })));
    select.dataset.names = names;
    where(group);
  }
  group.querySelector('.export').hidden = !run.targets.length;
  keyed(group.querySelector('.files'), run.files, (each) => each.key, newFile, updateFile);
};
part('.setup').addEventListener('click', () => trigger('setup'));
show((next) => {
  data = next;
  part('.empty').hidden = data.runs.length > 0;
  keyed(part('.jobs'), data.jobs, (job) => job.id, (job) => newJob(job, (id) => post('/adapters/end', { id })), (item, job) => jobLine(item, job, 'Exporting'));
  keyed(part('.groups'), data.runs, (run) => run.id, newGroup, updateGroup);
});
