const list = element.querySelector('ul');
const row = (run, chosen) => {
  const item = document.createElement('li');
  const button = document.createElement('button');
  button.type = 'button';
  button.dataset.run = run.id;
  button.dataset.state = run.state;
  button.setAttribute('aria-current', String(run.id === chosen));
  const parts = [['dot', ''], ['name', run.id], ['state', run.state]].map(([kind, text]) => {
    const part = document.createElement('span');
    part.className = kind;
    part.textContent = text;
    return part;
  });
  button.append(...parts);
  button.title = run.steps ? `step ${run.step} of ${run.steps}` : run.state;
  item.append(button);
  return item;
};
show((data) => {
  element.querySelector('.empty').hidden = data.runs.length > 0;
  list.replaceChildren(...data.runs.map((run) => row(run, data.chosen)));
});
list.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (button) trigger('select', { run: button.dataset.run });
});
