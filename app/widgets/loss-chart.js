const canvas = part('canvas'), tip = part('.tip'), smooth = part('[data-smooth]'), logScale = part('[data-log]'), banded = part('[data-bands]');
const COLOURS = ['--own', '--second', '--third', '--fourth', '--fifth', '--sixth'];
const MARGIN = { left: 52, right: 10, top: 10, bottom: 24 };
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
let data = { run: '', curves: [], choices: [] }, hover = null, box = null;
const laid = new Map(); // curves of other runs, by id, in the order in which they were chosen
const bands = () => data.curves[0]?.bands ?? [];
const isBanded = () => banded.checked && bands().length > 0;
const runs = () => [...data.curves, ...[...laid.values()].filter((curve) => !data.curves.some((own) => own.run === curve.run))];
const ownBands = () => bands().map((band) => ({ ...band, title: band.name, name: `timesteps ${band.name}`, steps: data.curves[0].steps, width: data.curves[0].width }));
const lines = () => (isBanded() ? ownBands() : runs()).map((curve, place) => ({ ...curve, colour: COLOURS[place % COLOURS.length] }));
const css = (name) => getComputedStyle(part('.panel')).getPropertyValue(name).trim() || '#888';
// The step in the middle of a bucket.
const at = (curve, place) => Math.min((place + 0.5) * curve.width + 0.5, curve.steps);
// Exponential mean over steps, without the pull to its start; a bucket of w steps weighs as w steps do. Over an eighth of
// a run at most, since a mean over more lags behind a loss that falls.
const smoothed = (curve) => {
  const span = Math.max(1, Math.min(10 ** (3 * smooth.value), curve.steps * smooth.value / 8));
  const keep = (1 - 1 / span) ** curve.width;
  let sum = 0, weight = 0;
  return curve.mean.map((value) => {
    if (value !== null) { sum = keep * sum + (1 - keep) * value; weight = keep * weight + (1 - keep); }
    return weight ? sum / weight : null;
  });
};
const range = (curves) => {
  const highs = curves.flatMap((curve) => [...(curve.high ?? curve.mean), ...curve.validation.map((row) => row[1])]).filter((value) => value !== null && (!logScale.checked || value > 0)).sort((a, b) => a - b);
  const lows = curves.flatMap((curve) => [...(curve.low ?? curve.mean), ...curve.validation.map((row) => row[1])]).filter((value) => value !== null && (!logScale.checked || value > 0)).sort((a, b) => a - b);
  if (!highs.length) return null;
  const checks = curves.flatMap((curve) => curve.validation.map((row) => row[1]));
  let top = Math.max(highs[Math.floor((highs.length - 1) * 0.985)], ...checks), bottom = lows[0]; // a few peaks shall not press all else flat
  if (top === bottom) { top *= 1.1; bottom *= 0.9; }
  if (top <= bottom) { top = bottom + 1; }
  return logScale.checked ? { bottom: bottom / 1.05, top: top * 1.05 } : { bottom: Math.max(0, bottom - (top - bottom) * 0.05), top: top + (top - bottom) * 0.05 };
};
const nice = (span, count) => {
  const rough = span / count, power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
};
const ticks = ({ bottom, top }) => {
  if (!logScale.checked) {
    const step = nice(top - bottom, 5);
    return Array.from({ length: Math.floor(top / step) - Math.ceil(bottom / step) + 1 }, (_, place) => (Math.ceil(bottom / step) + place) * step);
  }
  const found = [];
  for (let power = Math.floor(Math.log10(bottom)); power <= Math.log10(top); power += 1) [1, 2, 5].forEach((factor) => found.push(factor * 10 ** power));
  return found.filter((value) => value >= bottom && value <= top);
};
const label = (value) => (value === 0 ? '0' : Math.abs(value) < 0.001 ? value.toExponential(0) : String(Number(value.toPrecision(2))));
const path = (pen, points) => {
  pen.beginPath();
  let open = false;
  points.forEach(([x, y]) => {
    if (y === null || Number.isNaN(y)) { open = false; return; }
    open ? pen.lineTo(x, y) : pen.moveTo(x, y);
    open = true;
  });
  pen.stroke();
};
const axes = (pen, x, y, steps, bounds, width, height) => {
  pen.font = `11px ${css('--font-mono')}`;
  const grid = css('--border-color-primary'), text = css('--body-text-color');
  pen.lineWidth = 1;
  pen.textAlign = 'right';
  pen.textBaseline = 'middle';
  ticks(bounds).forEach((value) => {
    pen.strokeStyle = grid;
    path(pen, [[MARGIN.left, y(value)], [width - MARGIN.right, y(value)]]);
    pen.fillStyle = text;
    pen.globalAlpha = 0.7;
    pen.fillText(label(value), MARGIN.left - 8, y(value));
    pen.globalAlpha = 1;
  });
  pen.textAlign = 'center';
  pen.fillStyle = text;
  pen.globalAlpha = 0.7;
  const step = Math.max(1, nice(steps, width < 480 ? 4 : 7));
  for (let value = 0; value <= steps; value += step) {
    const text = value.toLocaleString('en');
    pen.fillText(text, Math.min(x(value), width - pen.measureText(text).width / 2), height - 9);
  }
  pen.globalAlpha = 1;
};
const curveOn = (pen, curve, x, y) => {
  pen.strokeStyle = css(curve.colour);
  pen.globalAlpha = 0.28;
  pen.lineWidth = 1;
  const raw = curve.low ? curve.low.flatMap((low, place) => [[x(at(curve, place)), y(low)], [x(at(curve, place)), y(curve.high[place])]]) : curve.mean.map((value, place) => [x(at(curve, place)), y(value)]);
  path(pen, raw);
  pen.globalAlpha = 1;
  pen.lineWidth = 2;
  pen.lineJoin = 'round';
  path(pen, smoothed(curve).map((value, place) => [x(at(curve, place)), y(value)]));
  pen.setLineDash([5, 4]);
  pen.lineWidth = 1.5;
  path(pen, curve.validation.map(([step, value]) => [x(step), y(value)]));
  pen.setLineDash([]);
  pen.fillStyle = css(curve.colour);
  curve.validation.forEach(([step, value]) => { pen.beginPath(); pen.arc(x(step), y(value), 2.2, 0, 7); pen.fill(); });
};
const draw = () => {
  const width = canvas.clientWidth, height = canvas.clientHeight, curves = lines();
  if (!width) return;
  const dots = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * dots) || canvas.height !== Math.round(height * dots)) { canvas.width = Math.round(width * dots); canvas.height = Math.round(height * dots); }
  const pen = canvas.getContext('2d');
  pen.setTransform(dots, 0, 0, dots, 0, 0);
  pen.clearRect(0, 0, width, height);
  const bounds = range(curves), steps = Math.max(1, ...curves.map((curve) => curve.steps));
  part('.empty').hidden = Boolean(bounds);
  box = null;
  if (!bounds) return;
  const scale = logScale.checked ? Math.log : (value) => value;
  const x = (step) => MARGIN.left + (width - MARGIN.left - MARGIN.right) * step / steps;
  const y = (value) => (value === null || (logScale.checked && value <= 0) ? null : MARGIN.top + (height - MARGIN.top - MARGIN.bottom) * (1 - (scale(value) - scale(bounds.bottom)) / (scale(bounds.top) - scale(bounds.bottom))));
  box = { width, steps, x };
  axes(pen, x, y, steps, bounds, width, height);
  pen.save();
  pen.beginPath();
  pen.rect(MARGIN.left, MARGIN.top - 4, width - MARGIN.left - MARGIN.right + 4, height - MARGIN.top - MARGIN.bottom + 6);
  pen.clip();
  [...curves].reverse().forEach((curve) => curveOn(pen, curve, x, y));
  pen.restore();
  marker(pen, curves, height);
};
const short = (value) => (value === null || value === undefined ? '\u2013' : value.toPrecision(3));
const marker = (pen, curves, height) => {
  tip.hidden = hover === null;
  if (hover === null) return;
  hover = Math.max(1, Math.min(hover, box.steps));
  pen.strokeStyle = css('--body-text-color');
  pen.globalAlpha = 0.5;
  path(pen, [[box.x(hover), MARGIN.top], [box.x(hover), height - MARGIN.bottom]]);
  pen.globalAlpha = 1;
  const rows = curves.flatMap((curve) => {
    const place = Math.floor((hover - 1) / curve.width);
    if (hover > curve.steps) return [];
    const checked = curve.validation.filter(([step]) => step <= hover).at(-1);
    const check = checked ? `, validation ${short(checked[1])} (step ${checked[0]})` : '';
    return [`${curve.name.slice(0, 22)}\n  ${short(curve.mean[place])}, smoothed ${short(smoothed(curve)[place])}${check.replace(', ', '\n  ')}`];
  });
  put(tip, [`step ${Math.round(hover).toLocaleString('en')}`, ...rows].join('\n'));
  const left = box.x(hover);
  tip.style.left = left < box.width / 2 ? `${left + 12}px` : 'auto';
  tip.style.right = left < box.width / 2 ? 'auto' : `${box.width - left + 12}px`;
};
const legend = () => {
  const list = part('.legend');
  const rows = lines().flatMap((curve) => [{ text: curve.name, colour: curve.colour, dash: 'solid' }, ...(curve.validation.length ? [{ text: 'validation', colour: curve.colour, dash: 'dashed' }] : [])]);
  while (list.children.length > rows.length) list.lastChild.remove();
  rows.forEach((row, place) => {
    let item = list.children[place];
    if (!item) { item = document.createElement('li'); item.append(document.createElement('i'), document.createElement('span')); list.append(item); }
    item.firstChild.style.borderTopColor = `var(${row.colour})`;
    item.firstChild.style.borderTopStyle = row.dash;
    put(item.lastChild, row.text);
  });
};
const summary = () => {
  const said = lines().filter((curve) => curve.steps).map((curve) => {
    const line = smoothed(curve).filter((value) => value !== null);
    if (!line.length) return `${curve.name}: no loss yet.`;
    const check = curve.validation.length ? ` Validation ${short(curve.validation.at(-1)[1])} at step ${curve.validation.at(-1)[0]}.` : '';
    return `${curve.name}: ${curve.steps} steps, smoothed loss from ${short(line[0])} to ${short(line.at(-1))}, lowest ${short(Math.min(...line))}.${check}`;
  }).join(' ') || 'No step yet.';
  put(part('#loss-summary'), said);
  canvas.setAttribute('aria-label', 'Loss by step; arrow keys move along it');
};
const table = () => {
  banded.parentNode.hidden = !bands().length;
  part('.bands').hidden = !isBanded();
  const rows = isBanded() ? ownBands().map((band) => [band.title, short(smoothed(band).at(-1)), short(band.validation.at(-1)?.[1])]) : [];
  part('.bands tbody').replaceChildren(...rows.map((row) => {
    const line = document.createElement('tr');
    line.append(...row.map((text) => Object.assign(document.createElement('td'), { textContent: text })));
    return line;
  }));
};
const lay = async (run) => {
  const answer = await fetch(`/train/curve?run=${encodeURIComponent(run)}`).catch(() => null);
  if (answer?.ok) laid.set(run, await answer.json());
};
const choices = () => {
  const list = part('.choices');
  const old = new Map([...list.children].map((child) => [child.dataset.run, child]));
  data.choices.forEach((choice) => {
    const item = old.get(choice.run) ?? document.createElement('label');
    old.delete(choice.run);
    if (!item.dataset.run) {
      item.dataset.run = choice.run;
      const tick = Object.assign(document.createElement('input'), { type: 'checkbox', checked: laid.has(choice.run) });
      tick.addEventListener('change', async () => {
        if (tick.checked) await lay(choice.run); else laid.delete(choice.run);
        all();
      });
      item.append(tick, document.createElement('span'));
    }
    put(item.lastChild, choice.name);
    list.append(item);
  });
  old.forEach((item) => item.remove());
};
const all = () => { part('.others').hidden = !data.choices.length || isBanded(); legend(); summary(); table(); draw(); };
show((value) => {
  const before = data;
  data = value;
  if (JSON.stringify(before.choices) !== JSON.stringify(data.choices)) choices();
  all();
  // Others that train are followed, too.
  const live = data.choices.filter((choice) => choice.live && laid.has(choice.run));
  if (live.length) Promise.all(live.map((choice) => lay(choice.run))).then(all);
});
const point = (event) => {
  if (!box) return;
  const place = event.clientX - canvas.getBoundingClientRect().left;
  hover = Math.round((place - MARGIN.left) / (box.width - MARGIN.left - MARGIN.right) * box.steps);
  draw();
};
canvas.addEventListener('pointermove', point);
canvas.addEventListener('pointerdown', point);
['pointerleave', 'blur'].forEach((name) => canvas.addEventListener(name, () => { hover = null; draw(); }));
canvas.addEventListener('keydown', (event) => {
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!move || !box) return;
  event.preventDefault();
  hover = (hover ?? box.steps) + move * Math.max(1, Math.round(box.steps / 100));
  draw();
});
smooth.addEventListener('input', all);
logScale.addEventListener('change', all);
banded.addEventListener('change', all);
new ResizeObserver(draw).observe(part('.plot'));
new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ['class'] });
