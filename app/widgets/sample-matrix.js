const grid = part('.grid'), newest = part('[data-newest]'), dialog = part('dialog');
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
let data = { run: '', rows: [], columns: [] }, open = null;
try { newest.checked = localStorage.getItem('dora-studio-newest') === 'yes'; } catch { /* not kept, then */ }
const cellOf = (parent, place) => {
  if (parent.children[place + 1]) return parent.children[place + 1];
  const cell = parent.classList.contains('head') ? document.createElement('span') : Object.assign(document.createElement('button'), { type: 'button', className: 'cell' });
  cell.setAttribute('role', parent.classList.contains('head') ? 'columnheader' : 'cell');
  parent.append(cell);
  return cell;
};
const trim = (parent, count) => { while (parent.children.length > count + 1) parent.lastChild.remove(); };
const rowOf = (key, kind) => {
  const row = grid.querySelector(`[data-key="${key}"]`) ?? document.createElement('div');
  if (!row.dataset.key) {
    row.dataset.key = key;
    row.setAttribute('role', 'row');
    const step = Object.assign(document.createElement('span'), { className: 'step' });
    step.setAttribute('role', kind === 'head' ? 'columnheader' : 'rowheader');
    row.append(step);
  }
  row.className = `row ${kind}`;
  return row;
};
const head = () => {
  const row = rowOf('head', 'head');
  put(row.firstChild, 'step');
  data.columns.forEach((prompt, place) => { const cell = cellOf(row, place); put(cell, prompt); cell.title = prompt; });
  trim(row, data.columns.length);
  return row;
};
const picture = (sample, step) => {
  const row = rowOf(`${step}-${sample.asked}-${sample.cells[0]?.full ?? ''}`, '');
  put(row.firstChild, sample.asked ? `${step} asked` : String(step));
  sample.cells.forEach((cell, place) => {
    const button = cellOf(row, place);
    if (button.dataset.full === cell.full) return;
    button.dataset.full = cell.full;
    button.setAttribute('aria-label', `Step ${step}: ${cell.prompt}`);
    button.title = `${cell.prompt}\nseed ${cell.seed}`;
    const image = Object.assign(document.createElement('img'), { loading: 'lazy', alt: '', src: cell.small });
    button.replaceChildren(image);
  });
  trim(row, sample.cells.length);
  return row;
};
const waiting = (step) => {
  const row = rowOf('next', 'next');
  put(row.firstChild, String(step));
  for (let place = 0; place < data.count; place += 1) {
    const cell = cellOf(row, place);
    cell.disabled = true;
    cell.setAttribute('aria-label', `Step ${step}: not drawn yet`);
  }
  trim(row, data.count);
  return row;
};
const ordered = () => {
  const rows = data.rows.map((sample) => picture(sample, sample.step));
  if (data.next !== null && data.next !== undefined) rows.push(waiting(data.next));
  if (newest.checked) rows.reverse();
  return rows.length ? [head(), ...rows] : [];
};
const render = () => {
  grid.style.setProperty('--columns', Math.max(data.count ?? 1, ...data.rows.map((sample) => sample.cells.length)));
  const rows = ordered();
  rows.forEach((row, place) => { if (grid.children[place] !== row) grid.insertBefore(row, grid.children[place] ?? null); });
  while (grid.children.length > rows.length) grid.lastChild.remove();
  part('.empty').hidden = rows.length > 0;
  part('.newest').hidden = data.rows.length < 2;
};
// The same prompt through the steps: left and right; another prompt: up and down.
const look = (row, column) => {
  const sample = data.rows[Math.max(0, Math.min(row, data.rows.length - 1))];
  if (!sample?.cells.length) return;
  const place = Math.max(0, Math.min(column, sample.cells.length - 1)), cell = sample.cells[place];
  open = { row: data.rows.indexOf(sample), column: place };
  const image = dialog.querySelector('img');
  image.onload = () => image.classList.toggle('tiny', image.naturalWidth <= 256);
  image.src = cell.full;
  image.alt = cell.prompt;
  put(dialog.querySelector('figcaption'), `Step ${sample.step}${sample.asked ? ', asked for' : ''} \u00b7 seed ${cell.seed} \u00b7 ${cell.prompt}`);
  if (!dialog.open) dialog.showModal();
};
grid.addEventListener('click', (event) => {
  const button = event.target.closest('[data-full]');
  if (!button) return;
  const row = data.rows.findIndex((sample) => sample.cells.some((cell) => cell.full === button.dataset.full));
  look(row, data.rows[row].cells.findIndex((cell) => cell.full === button.dataset.full));
});
dialog.addEventListener('keydown', (event) => {
  const [row, column] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
  if (!row && !column) return;
  event.preventDefault();
  look(open.row + row, open.column + column);
});
dialog.addEventListener('click', (event) => {
  const turn = event.target.closest('[data-turn]');
  if (turn) look(open.row + Number(turn.dataset.turn), open.column);
  else if (event.target === dialog) dialog.close();
});
newest.addEventListener('change', () => {
  try { localStorage.setItem('dora-studio-newest', newest.checked ? 'yes' : 'no'); } catch { /* not kept, then */ }
  render();
});
show((value) => { data = value; render(); });
