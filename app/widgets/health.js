const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const counted = (count) => (count === 1 ? '1 step was' : `${count} steps were`);
show((data) => {
  element.querySelector('details').hidden = !data.run;
  if (!data.run) return;
  const known = data.at !== null;
  const most = Math.max(...data.norms.map((row) => row.norm ?? 0), 1e-12);
  put(element.querySelector('.short'), known ? `norms at step ${data.at}${data.skipped ? `, ${counted(data.skipped)} skipped` : ''}` : 'nothing measured yet');
  put(element.querySelector('.hint'), known ? 'How far each block has moved from the base model: it should grow, then settle.' : 'Measured with the validation loss: set "Validate every" above 0.');
  const list = element.querySelector('ul');
  while (list.children.length > data.norms.length) list.lastChild.remove();
  data.norms.forEach((row, place) => {
    let item = list.children[place];
    if (!item) {
      item = document.createElement('li');
      const bar = document.createElement('span');
      bar.append(document.createElement('i'));
      item.append(document.createElement('b'), bar, document.createElement('span'));
      list.append(item);
    }
    put(item.children[0], row.block);
    item.children[0].title = row.block;
    item.children[1].firstChild.style.width = `${100 * (row.norm ?? 0) / most}%`;
    put(item.children[2], row.norm === null ? 'no number' : row.norm.toPrecision(3));
  });
  const facts = [];
  if (data.drift !== null && known) facts.push(`Magnitudes have moved by ${(100 * data.drift).toPrecision(3)} % on average.`);
  facts.push(data.skipped ? `${counted(data.skipped)} skipped.` : 'No step was skipped.');
  if (data.peak) facts.push(`Highest memory of the card: ${data.peak}.`);
  put(element.querySelector('.facts'), facts.join(' '));
});
