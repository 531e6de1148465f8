const box = part('details'), list = part('ul'), empty = part('.empty'), ask = part('.ask');
const KIND = { run: 'run', set: 'image set', part: 'taken out' };
const BACK = { run: (id) => post('/train/restore', { run: id }), set: (id) => post(`/sets/trash/${id}/restore`) };
const tell = (text) => { part('.told').textContent = text; };
const sure = (open) => { ask.hidden = !open; empty.hidden = open || !list.children.length; };
const row = (item) => {
  const said = make('span', { textContent: `${KIND[item.kind]}, ${item.size}` });
  const made = make('li', {}, make('b', { textContent: item.name, title: item.name }), said);
  if (!BACK[item.kind]) return made;
  const button = make('button', { type: 'button', className: 'btn', textContent: 'Restore', ariaLabel: `Restore ${item.name}` });
  button.addEventListener('click', () => doing(async () => { await BACK[item.kind](item.id); return `${item.name} is back.`; }));
  made.append(button);
  return made;
};
const load = async () => {
  const { items, size } = await answered(await fetch('/trash'));
  list.replaceChildren(...items.map(row));
  part('.hint').textContent = items.length ? `${size} on the disk. Nothing is deleted by itself.` : 'Nothing is in the trash.';
  sure(false);
};
const doing = async (act) => {
  for (const button of element.querySelectorAll('button')) button.disabled = true;
  try { tell(await act()); } catch (error) { tell(error.message); }
  for (const button of element.querySelectorAll('button')) button.disabled = false;
  await load().catch((error) => tell(error.message));
};
box.addEventListener('toggle', () => { if (box.open) doing(async () => ''); });
empty.addEventListener('click', () => { sure(true); ask.querySelector('.keep').focus(); });
ask.querySelector('.keep').addEventListener('click', () => { sure(false); empty.focus(); });
ask.querySelector('.danger').addEventListener('click', () => doing(async () => `${(await post('/trash/empty')).freed} freed.`));
show(({ count }) => {
  part('.count').textContent = count ? `(${count})` : '';
  if (box.open) load().catch((error) => tell(error.message));
});
