const FIELDS = ['files', 'prompts', 'strengths', 'seeds', 'steps', 'guidance'];
const AT_REST_MS = 300; // of typing, before the pictures are counted
const form = part('form');
const told = part('.told');
const newKey = () => [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
// What is typed outlives a refresh; each tab has its own.
const kept = JSON.parse(sessionStorage.getItem('compare') ?? 'null');
const asked = kept ?? { sources: null, key: newKey() }; // sources: null until somebody touched the form
const keep = () => sessionStorage.setItem('compare', JSON.stringify(asked));
for (const name of FIELDS) form.elements[name].value = asked[name] ?? '';

let data = null;
let chosen = sessionStorage.getItem('comparison') ?? '';
let follows = sessionStorage.getItem('compare-follows'); // the newest when something was drawn: what is newer is shown
let drawing = false;
const choose = (key) => {
  chosen = key;
  sessionStorage.setItem('comparison', key);
  document.chosenComparison = key;
  announce('comparison', key);
};

// The newest pair that has finished, else the newest run.
const preselected = (runs) => {
  const able = runs.filter((run) => !run.reason);
  const twins = able.map((run) => able.filter((other) => run.pair && other.pair === run.pair)).find((pair) => pair.length > 1);
  const ids = (twins ?? able.slice(0, 1)).map((run) => [run.kind === 'lora' ? 0 : 1, run.id]);
  return ids.sort((a, b) => a[0] - b[0]).map(([, id]) => id);
};
// A twin that finishes after the other is chosen too, as long as nobody has said what is wanted.
const sources = () => asked.sources ?? preselected(data?.runs ?? []);
const sourceBox = (source, className) => {
  const box = make('input', { type: 'checkbox', className, value: source });
  box.addEventListener('change', () => {
    asked.sources = box.checked ? [...sources(), source] : sources().filter((each) => each !== source);
    edited();
  });
  return box;
};
const newRun = (run) => {
  const whole = sourceBox(run.id, 'whole');
  return make('div', { className: 'run' }, make('label', {}, whole, make('span'), kindMark(run.kind)), make('p', { className: 'about' }), make('div', { className: 'steps', role: 'group', ariaLabel: `Checkpoints of ${run.name}` }));
};
const updateRun = (row, run) => {
  const whole = row.querySelector('.whole');
  whole.disabled = Boolean(run.reason) && !sources().includes(run.id);
  row.querySelector('label > span').textContent = run.name;
  row.title = run.id;
  row.querySelector('.about').textContent = run.reason || [run.base, `rank ${run.rank}`, run.pair ? 'twin' : ''].filter(Boolean).join(' · ');
  keyed(row.querySelector('.steps'), run.checkpoints, String, (step) => make('label', {}, sourceBox(`${run.id}@${step}`, 'step'), `step ${step}`));
  for (const box of row.querySelectorAll('input')) box.checked = sources().includes(box.value);
};
const hints = () => {
  const first = data.runs.find((run) => sources().some((source) => source.split('@')[0] === run.id));
  form.elements.prompts.placeholder = first?.prompts.length ? `as the run's samples:\n${first.prompts.join('\n')}` : 'as the samples of the first run';
  for (const name of ['seeds', 'steps', 'guidance']) form.elements[name].placeholder = first ? String(first.drawn[name]) : 'as the run';
};

let resting = 0;
let counted = 0;
const edited = () => { if (data) { asked.sources ??= sources(); hints(); } keep(); clearTimeout(resting); resting = setTimeout(count, AT_REST_MS); };
const tell = (text, isBad = false) => { told.textContent = text; told.dataset.bad = String(isBad); };
const body = () => ({ ...Object.fromEntries(FIELDS.map((name) => [name, asked[name] ?? ''])), sources: sources(), key: asked.key });
const count = async () => {
  const number = ++counted;
  known = sources().join();
  const button = part('.draw');
  if (!sources().length && !asked.files?.trim()) { button.disabled = true; tell('Choose runs, or give adapter files.'); return; }
  try {
    const { pictures, rows, columns } = await post('/compare/count', body());
    if (number !== counted) return;
    tell(`${pictures} pictures: ${rows} ${rows === 1 ? 'row' : 'rows'} by ${columns} columns.`);
    button.disabled = drawing;
  } catch (error) {
    if (number !== counted) return;
    tell(error.message, true);
    button.disabled = true;
  }
};
for (const name of FIELDS) form.elements[name].addEventListener('input', (event) => { asked[name] = event.target.value; edited(); });
form.addEventListener('submit', async (event) => {
  event.preventDefault();
  if (drawing) return;
  drawing = true;
  part('.draw').disabled = true;
  try {
    await post('/compare/draw', body());
    follows = data.made[0]?.key ?? 'nothing';
    sessionStorage.setItem('compare-follows', follows);
    asked.key = newKey();
    keep();
    tell('In the queue.');
  } catch (error) { tell(error.message, true); }
  drawing = false;
  part('.draw').disabled = false;
});

const newMade = (made) => {
  const button = make('button', { type: 'button' }, make('img', { alt: '', loading: 'lazy', src: made.grid }), make('span', {}, make('b', { textContent: made.titles.join(' | ') }), make('small', { textContent: `${when(made.made)} · ${made.pictures} pictures` })));
  button.addEventListener('click', () => { choose(made.key); mark(); });
  return make('li', {}, button);
};
const mark = () => { for (const item of part('.made ul').children) item.firstElementChild.setAttribute('aria-current', String(item.dataset.key === chosen)); };
part('.setup').addEventListener('click', () => trigger('setup'));
let known = null; // the sources whose pictures were counted, before any: null
show((next) => {
  data = next;
  const { runs, made, jobs } = data;
  const able = runs.some((run) => !run.reason || run.checkpoints.length);
  part('.empty').hidden = able || made.length > 0;
  keyed(part('.runs'), runs, (run) => run.id, newRun, updateRun);
  keyed(part('.jobs'), jobs, (job) => job.id, (job) => newJob(job, (id) => post('/compare/end', { id })), (item, job) => jobLine(item, job, 'Drawing'));
  keyed(part('.made ul'), made, (each) => each.key, newMade);
  part('.made').hidden = !made.length;
  if (follows && made.length && made[0].key !== follows) { follows = null; sessionStorage.removeItem('compare-follows'); choose(made[0].key); }
  else if (!made.some((each) => each.key === chosen)) choose(made[0]?.key ?? '');
  else if (document.chosenComparison !== chosen) choose(chosen);
  mark();
  hints();
  if (known === null) part('.new').open = !(made.length && matchMedia('(max-width: 900px)').matches);
  if (known !== sources().join()) count();
});
