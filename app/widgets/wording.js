const prompt = part('.prompt');
const form = part('form');
const apply = part('form .btn');
const preview = part('.preview');
const state = part('.state');
const edited = part('.edited');
const rest = preview.textContent;
let data = { set: '', prompt: '' };
let typed = null; // the prompt, while it is not saved
show((next) => {
  const isOther = next.set !== data.set;
  data = next;
  if (isOther) { form.reset(); asked(); say(state, ''); say(edited, ''); typed = null; }
  if (isOther || (typed === null && document.activeElement !== prompt)) prompt.value = data.prompt;
  prompt.disabled = !data.set;
});
let timer = 0;
const save = async () => {
  clearTimeout(timer);
  if (typed === null) return;
  const text = typed;
  try {
    await post(`/sets/${data.set}/prompt`, { prompt: text });
    if (typed === text) typed = null;
    say(state, 'saved');
  } catch (error) { say(state, `not saved: ${error.message}`); }
  changed();
};
prompt.addEventListener('input', () => { clearTimeout(timer); say(state, ''); typed = prompt.value; timer = setTimeout(save, 600); });
prompt.addEventListener('blur', save);
const values = () => Object.fromEntries(new FormData(form));
const said = (found) => {
  const number = Object.keys(found.after).length;
  if (!number) return `None of ${found.of} captions would change.`;
  return `${number} of ${found.of} captions. The first: "${found.example[0]}" becomes "${found.example[1]}".`;
};
let question = 0;
// What would change, for what is typed last.
async function asked() {
  const mine = ++question;
  const edit = values();
  apply.disabled = true;
  preview.textContent = rest;
  if (!data.set || !(edit.find || edit.before.trim() || edit.after.trim())) return;
  const found = await post(`/sets/${data.set}/edit`, { ...edit, is_preview: true }).catch((error) => ({ error }));
  if (mine !== question) return;
  preview.textContent = found.error?.message ?? said(found);
  apply.disabled = !found.after || !Object.keys(found.after).length;
}
let pause = 0;
form.addEventListener('input', () => { clearTimeout(pause); apply.disabled = true; pause = setTimeout(asked, 250); });
form.addEventListener('submit', async (event) => {
  event.preventDefault();
  if (apply.disabled) return;
  const set = data.set;
  try {
    const done = await post(`/sets/${set}/edit`, values());
    const number = Object.keys(done.after).length;
    form.reset();
    asked();
    say(edited, `Changed ${number} caption${number === 1 ? '' : 's'}.`, async () => {
      await post(`/sets/${set}/captions`, { captions: done.before, expected: done.after });
      return 'As before. Captions that were changed since have been left alone.';
    });
  } catch (error) { say(edited, error.message); }
  changed();
});
