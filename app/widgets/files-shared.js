const make = (tag, props = {}, ...children) => {
  const { data, aria, ...rest } = props;
  const made = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(data ?? {})) made.dataset[name] = value;
  for (const [name, value] of Object.entries(aria ?? {})) made.setAttribute(`aria-${name}`, value);
  made.append(...children);
  return made;
};
// Children by key: one that is there stays the same element, so nothing flickers and nothing loses the focus.
const keyed = (list, items, keyOf, create, update = () => {}) => {
  const old = new Map([...list.children].map((child) => [child.dataset.key, child]));
  let place = list.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const child = old.get(key) ?? create(item);
    old.delete(key);
    child.dataset.key = key;
    if (child === place) place = place.nextElementSibling;
    else list.insertBefore(child, place);
    update(child, item);
  }
  for (const child of old.values()) child.remove();
};
const when = (iso) => new Date(iso).toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
const KINDS = { lora: 'LoRA', dora: 'DoRA', full: 'Full', difference: 'difference', base: 'base' };
const kindMark = (kind) => make('span', { className: 'kind', textContent: KINDS[kind] ?? kind, data: { kind } });
const jobLine = (item, job, verb) => {
  const { state } = job;
  item.dataset.state = state;
  item.querySelector('b').textContent = { waiting: 'Waiting', running: verb, failed: 'Failed' }[state];
  const ahead = job.ahead ? `behind ${job.ahead} ${job.ahead === 1 ? 'job' : 'jobs'}` : 'for its turn';
  const done = job.total ? `picture ${job.done} of ${job.total}` : 'loading the model';
  item.querySelector('.said').textContent = { waiting: ahead, running: job.counts === false ? '' : done, failed: `${job.sentence} ${job.fix}` }[state];
  item.querySelector('.what').textContent = job.what;
  const bar = item.querySelector('progress');
  bar.hidden = state !== 'running';
  if (job.total) bar.value = job.done / job.total; else bar.removeAttribute('value');
  item.querySelector('button').hidden = state === 'failed';
};
const newJob = (job, end) => {
  const button = make('button', { type: 'button', className: 'btn', textContent: 'Stop' });
  button.addEventListener('click', async () => { button.disabled = true; try { await end(job.id); } catch { button.disabled = false; } });
  const bar = make('progress', { max: 1, ariaLabel: 'Progress' });
  return make('li', { className: 'job' }, make('div', {}, make('b'), ' ', make('span', { className: 'said' })), button, make('div', { className: 'what' }), bar);
};
