const NS = 'http://www.w3.org/2000/svg';
const COLOURS = { lora: '#06b6d4', dora: '#8b5cf6', full: '#f59e0b' };
const MORE = ['#f59e0b', '#22c55e', '#ec4899', '#3b82f6', '#f97316', '#14b8a6'];
const SMALL_PX = 200; // such pictures are shown as the pixels that they are
const told = part('.told');
let data = null;
let pair = [];

const svg = (tag, attributes, ...children) => {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

// The pair: the cells of the last two clicks. A click on one that is in it already does nothing.
const press = (row, column) => {
  if (pair.some((cell) => cell.row === row && cell.column === column)) return;
  pair = [pair[1], { row, column }];
  drawPair();
};
const drawPair = () => {
  for (const button of part('.grid').querySelectorAll('.cell')) {
    const place = pair.findIndex((cell) => `${cell.row},${cell.column}` === button.dataset.cell);
    button.setAttribute('aria-pressed', String(place >= 0));
    button.querySelector('span').hidden = place < 0;
    button.querySelector('span').textContent = 'AB'[place] ?? '';
  }
  const [a, b] = pair;
  const title = (cell) => data.columns[cell.column].title;
  const source = (cell) => data.cells[cell.row][cell.column];
  for (const [name, cell] of [['above', a], ['below', b]]) {
    const image = part(`.frame .${name}`);
    image.src = source(cell).whole;
    image.alt = `${title(cell)}: ${data.rows[cell.row].label}`;
  }
  part('.frame .left').textContent = title(a);
  part('.frame .right').textContent = title(b);
  part('.names').textContent = `A: ${title(a)}. B: ${title(b)}.`;
  part('.prompt').textContent = a.row === b.row ? data.rows[a.row].label : `A: ${data.rows[a.row].label}  B: ${data.rows[b.row].label}`;
  part('.drawn').textContent = data.rows[b.row].drawn;
};
const slide = part('.frame input');
slide.addEventListener('input', () => part('.frame').style.setProperty('--at', `${slide.value}%`));

const drawGrid = () => {
  const heads = data.columns.map((column, number) => {
    const distances = data.cells.map((row) => row[number].distance);
    const mean = Math.sqrt(distances.reduce((sum, value) => sum + value * value, 0) / distances.length);
    return make('th', { scope: 'col' }, column.title, make('small', { textContent: number ? `distance ${mean.toFixed(4)}` : 'no adapter' }));
  });
  const rows = data.rows.map((row, r) => make('tr', {},
    make('th', { scope: 'row', title: row.prompt }, make('span', { className: 'label', textContent: row.label }), make('small', { textContent: row.drawn })),
    ...data.cells[r].map((cell, c) => {
      const image = make('img', { alt: '', loading: 'lazy', src: cell.small });
      const button = make('button', { type: 'button', className: 'cell', title: c ? `distance to base ${cell.distance.toFixed(4)}` : '', ariaLabel: `${data.columns[c].title}: ${row.label}`, data: { cell: `${r},${c}` } }, image, make('span', { hidden: true }));
      button.addEventListener('click', () => press(r, c));
      return make('td', {}, button);
    })));
  part('.grid').replaceChildren(make('thead', {}, make('tr', {}, make('th', { ariaLabel: 'Prompt' }), ...heads)), make('tbody', {}, ...rows));
};

const drawTable = () => {
  const head = make('tr', {}, make('th'), ...data.columns.map((column) => make('th', { scope: 'col', textContent: column.title })));
  const whys = new Map();
  const rows = data.table.map((row) => make('tr', {}, make('th', { scope: 'row', textContent: row.title }), ...row.cells.map((cell, number) => {
    const made = make('td', { textContent: cell.text || '–' });
    if (cell.why) {
      Object.assign(made, { title: cell.why, ariaLabel: `not known: ${cell.why}` });
      if (number) whys.set(`${row.title}: ${cell.why}`, [...(whys.get(`${row.title}: ${cell.why}`) ?? []), data.columns[number].title]);
    }
    return made;
  })));
  part('.figures').replaceChildren(make('thead', {}, head), make('tbody', {}, ...rows));
  part('.whys').replaceChildren(...[...whys].map(([why, titles]) => make('li', { textContent: `– ${why} (${titles.join(', ')})` })));
};

// A column of marks per layer, on a logarithmic axis; a layer that did not change at all has no place on it.
const [WIDTH, HEIGHT, LEFT, BOTTOM] = [960, 190, 56, 26];
const kindOf = ({ title }) => data.columns.find((column) => column.title === title || column.title.startsWith(`${title}, strength`))?.kind;
const colour = (number) => {
  const kinds = data.analysis.map(kindOf);
  const isOnlyOne = kinds.filter((kind) => kind === kinds[number]).length === 1;
  return (isOnlyOne && COLOURS[kinds[number]]) || MORE[number % MORE.length];
};
const mark = (number, x, y, size = 3) => {
  const fill = { fill: number % 2 ? colour(number) : 'none', stroke: colour(number), 'stroke-width': 1.5 };
  if (number % 2) return svg('circle', { cx: x, cy: y, r: size, ...fill });
  const half = size + 1.2; // of two at one place, both are seen
  return svg('rect', { x: x - half, y: y - half, width: 2 * half, height: 2 * half, ...fill });
};
const plot = (names, blocks, value, label) => {
  const values = data.analysis.flatMap((entry) => entry.layers.map(value)).filter((each) => each > 0);
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.max(Math.ceil(Math.log10(Math.max(...values))), low + 1);
  const x = (place) => LEFT + ((place + 0.5) / names.length) * (WIDTH - LEFT - 8);
  const y = (each) => 8 + ((high - Math.log10(each)) / (high - low)) * (HEIGHT - BOTTOM - 8);
  const made = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': label });
  for (let power = low; power <= high; power += 1) {
    made.append(svg('line', { class: 'line', x1: LEFT, x2: WIDTH, y1: y(10 ** power), y2: y(10 ** power) }), svg('text', { x: LEFT - 8, y: y(10 ** power) + 4, 'text-anchor': 'end' }, `1e${power}`));
  }
  for (const [block, from, to] of blocks) {
    made.append(svg('line', { class: 'line', x1: x(from - 0.5), x2: x(from - 0.5), y1: 8, y2: HEIGHT - BOTTOM }));
    if (to - from >= names.length / 20) made.append(svg('text', { x: x((from + to) / 2), y: HEIGHT - 8, 'text-anchor': 'middle' }, block));
  }
  data.analysis.forEach((entry, number) => {
    for (const layer of entry.layers) {
      if (!(value(layer) > 0)) continue;
      const drawn = mark(number, x(names.indexOf(layer.name)), y(value(layer)));
      drawn.append(svg('title', {}, `${layer.name}\n${entry.title}: ${value(layer).toPrecision(3)}`));
      made.append(drawn);
    }
  });
  return made;
};
const drawChanges = () => {
  const all = data.analysis.flatMap((entry) => entry.layers);
  part('.changes').hidden = !all.some((layer) => layer.magnitude_change > 0 || layer.direction_change > 0);
  if (part('.changes').hidden) return;
  const longest = data.analysis.reduce((best, entry) => (entry.layers.length > best.layers.length ? entry : best));
  const layers = [...longest.layers, ...all.filter((layer) => !longest.layers.some((known) => known.name === layer.name))];
  const names = [...new Set(layers.map((layer) => layer.name))];
  const blocks = [];
  names.forEach((name, place) => {
    const { block } = layers.find((layer) => layer.name === name);
    if (blocks.at(-1)?.[0] === block) blocks.at(-1)[2] = place; else blocks.push([block, place, place]);
  });
  part('.legend').replaceChildren(...data.analysis.map((entry, number) => make('span', {}, svg('svg', { viewBox: '0 0 12 12' }, mark(number, 6, 6, 4)), `${entry.title} (${entry.axis} axis): magnitude ${entry.magnitude_change.toPrecision(2)}, direction ${entry.direction_change.toPrecision(2)}${entry.correlation === null ? '' : `, correlation ${entry.correlation.toFixed(2)}`}`)));
  const panel = (title, value) => make('div', {}, make('h4', { textContent: title }), make('div', { className: 'scroll', tabIndex: 0, role: 'region', ariaLabel: title }, plot(names, blocks, value, title)));
  part('.plots').replaceChildren(
    ...(all.some((layer) => layer.magnitude_change > 0) ? [panel('Change of magnitude by layer', (layer) => layer.magnitude_change)] : []),
    ...(all.some((layer) => layer.direction_change > 0) ? [panel('Change of direction by layer', (layer) => layer.direction_change)] : []),
  );
};

const draw = () => {
  const titles = data.columns.map((column) => column.title);
  part('h2').textContent = titles.join(' | ');
  part('.about').textContent = `${when(data.made)} · base model ${data.base}`;
  part('.downloads').replaceChildren(...data.downloads.map((each) => make('a', { className: 'btn', href: each.url, download: '', textContent: each.title })));
  const shape = data.size;
  element.style.setProperty('--columns', data.columns.length);
  element.style.setProperty('--shape', `${shape[0]} / ${shape[1]}`);
  part('.all').classList.toggle('small', shape[0] < SMALL_PX);
  drawGrid();
  const last = data.columns.length - 1;
  pair = last ? [{ row: 0, column: last - 1 }, { row: 0, column: last }] : [{ row: 0, column: 0 }, { row: 0, column: 0 }];
  drawPair();
  drawTable();
  drawChanges();
  part('.notes').hidden = !data.notes.length;
  part('.notes ul').replaceChildren(...data.notes.map((text) => make('li', { textContent: text })));
  part('.again pre').textContent = data.command;
};
let wanted = '';
const load = async (key) => {
  if (!key || key === wanted) { if (!key) { wanted = ''; part('.all').hidden = true; told.textContent = ''; } return; }
  wanted = key;
  try {
    const answer = await answered(await fetch(`/compare/shown?key=${encodeURIComponent(key)}`));
    if (key !== wanted) return;
    data = answer;
    told.textContent = '';
    part('.all').hidden = false;
    draw();
  } catch (error) {
    if (key !== wanted) return;
    part('.all').hidden = true;
    told.textContent = error.message;
  }
  element.dataset.key = key;
};
hear('comparison', load);
load(document.chosenComparison ?? '');
