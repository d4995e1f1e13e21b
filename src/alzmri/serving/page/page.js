// Sends each slice to this server and draws its answer. No library, no other host.
// The item of a file in the list of results keeps its state: the class "waiting", the class
// "failed" if refused, or the property `answer`.

const $ = (id) => document.getElementById(id);
const about = await (await fetch("/model")).json();
let last = Promise.resolve(); // the work on all files chosen so far, one after another

$("model").textContent =
  `${about.name}, ${about.classes.length} classes, ${about.image_size} × ${about.image_size} pixels,` +
  ` weights ${about.weights.slice(0, 8)}`;
if (about.simulated) $("caution").textContent = "Trained on simulated slices: useless on real ones.";
if (about.leaks) $("leaks").textContent =
  "Subjects of the test slices were, or may have been, in training: the split leaks.";
document.body.classList.toggle("unknown", about.reference !== null);
$("card-text").innerHTML = about.card; // the server makes it from Markdown and drops HTML

$("files").addEventListener("change", () => {
  take($("files").files);
  $("files").value = ""; // or the same file could not be chosen again
});
$("clear").addEventListener("click", () => {
  $("results").replaceChildren();
  $("files").focus();
  report();
});
document.querySelector("a[href='#card']").addEventListener("click", () => { $("card").open = true; });
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  window.addEventListener(kind, (event) => {
    event.preventDefault();
    const over = kind !== "drop" && (kind !== "dragleave" || event.relatedTarget);
    $("drop").classList.toggle("over", Boolean(over));
    if (kind === "drop") take(event.dataTransfer.files);
  });
}

function take(files) {
  const jobs = [...files].map((file) => waiting(file, file.name));
  $("results").append(...jobs.map((job) => job.item));
  report();
  last = last.finally(() => work(jobs)); // also after an error, which the console shows
}

function waiting(file, name) {
  const quiet = element("p", "quiet", "Waiting…");
  return { file, name, item: element("li", "panel waiting", element("h2", "", name), quiet) };
}

async function work(jobs) {
  for (const job of jobs) {
    if (!job.item.isConnected) continue; // cleared meanwhile
    const outcome = await ask(job.file);
    if (outcome.error) refuse(job, outcome.error);
    else if (outcome.slices) await work(unfold(job, outcome.slices));
    else show(job, outcome);
    report();
  }
}

async function ask(file) {
  const volume = /\.(nii|nii\.gz|mgz|mgh)$/i.test(file.name);
  const form = new FormData();
  form.append(volume ? "volume" : "image", file, "file"); // its name stays here
  try {
    const response = await fetch(volume ? "/volume" : "/explain", { method: "POST", body: form });
    return await response.json();
  } catch {
    return { error: "the server does not answer: is it still running?" };
  }
}

// The slices of a volume replace it.
function unfold({ name, item }, slices) {
  const jobs = slices.map(({ depth, slice }) => {
    const content = Uint8Array.from(atob(slice.split(",")[1]), (letter) => letter.charCodeAt(0));
    return waiting(new File([content], "slice.png"), `${name}, ${depth} mm below the top`);
  });
  item.replaceWith(...jobs.map((job) => job.item));
  report();
  return jobs;
}

function refuse({ name, item }, reason) {
  item.className = "panel failed";
  item.replaceChildren(element("h2", "", name), element("p", "", `No prediction: ${reason}.`));
}

function show({ name, item }, answer) {
  const content = $("result").content.cloneNode(true).firstElementChild;
  const find = (selector) => content.querySelector(selector);
  const [most, probability] = highest(answer.probabilities);
  content.answer = answer;
  content.classList.toggle("outside", !answer.in_distribution);
  find("h2").textContent = name;
  find(".flag").hidden = answer.in_distribution;
  find(".slice").src = answer.slice;
  find(".slice").alt = `The slice as the model saw it, ${about.image_size} pixels a side`;
  find(".heat").src = answer.heat;
  find(".heat").alt = `Grad-CAM: where the evidence for ${most} is`;
  const blend = () => { find(".heat").style.opacity = find("input").value / 100; };
  find("input").addEventListener("input", blend);
  blend();
  const called = answer.predicted ? element("span", "", ` ${probability.toFixed(2)}`) : "";
  find(".verdict").append(answer.predicted ?? "No class", called);
  find("tbody").replaceChildren(...rows(answer.probabilities, answer.calibration));
  if (answer.nearest) find(".nearest").textContent = near(answer.nearest);
  item.replaceWith(content);
}

function rows(probabilities, calibration) {
  const [most] = highest(probabilities);
  return about.classes.map((name, stage) => {
    const [heading, chance] = [element("th", "", name), probabilities[name]];
    heading.scope = "row";
    const track = element("div", "track", bar("fill", 0, chance, colour(stage)));
    const cells = [heading, element("td", "", track), element("td", "", chance.toFixed(2))];
    const known = calibration?.[name];
    if (known) {
      const [share, low, high] = [known.share, known.low, known.high].map((value) => value.toFixed(2));
      const cell = element("td", "known", `${share} [${low}, ${high}]`);
      cell.title = `${known.slices} test slices of ${known.subjects} subjects`;
      track.append(bar("interval", known.low, known.high));
      cells.push(cell);
    }
    return element("tr", name === most ? "most" : "", ...cells);
  });
}

function bar(className, from, to, background = "") {
  const made = element("div", className);
  Object.assign(made.style, { left: `${100 * from}%`, width: `${100 * (to - from)}%`, background });
  return made;
}

function near({ classes, subjects }) {
  const counts = about.classes
    .map((name) => [classes.filter((other) => other === name).length, name])
    .filter(([count]) => count)
    .map((pair) => pair.join(" "));
  const whose = subjects === 1 ? "one subject" : `${subjects} subjects`;
  return `The ${classes.length} nearest training slices, of ${whose}: ${counts.join(", ")}.`;
}

function report() {
  const items = [...$("results").children];
  const count = (name) => items.filter((item) => item.classList.contains(name)).length;
  const answers = items.map((item) => item.answer).filter(Boolean);
  const problems = count("failed") ? `, ${count("failed")} refused` : "";
  const only = items.length === 1 && answers.length === 1
    ? `: ${answers[0].predicted ?? "out of distribution"}, ${highest(answers[0].probabilities)[1].toFixed(2)}`
    : "";
  const done = `${items.length - count("waiting")} of ${items.length} done${problems}${only}`;
  $("status").textContent = items.length ? done : "";
  $("clear").hidden = !items.length;
  $("legend").hidden = !answers.length;
  const inside = answers.filter((answer) => answer.in_distribution);
  const left = answers.length - inside.length;
  $("mean").hidden = inside.length < 2;
  if (inside.length < 2) return;
  $("mean-title").textContent =
    `${inside.length} slices together` + (left ? `, without ${left} out of distribution` : "");
  const sum = (name) => inside.reduce((total, answer) => total + answer.probabilities[name], 0);
  const mean = Object.fromEntries(about.classes.map((name) => [name, sum(name) / inside.length]));
  $("mean").querySelector("tbody").replaceChildren(...rows(mean));
}

// The colours of the four stages are a scale, which fewer or more classes divide evenly.
function colour(stage) {
  const place = (stage * 3) / (about.classes.length - 1);
  const below = Math.floor(place);
  const above = `var(--stage-${Math.ceil(place)}) ${100 * (place - below)}%`;
  return `color-mix(in srgb, ${above}, var(--stage-${below}))`;
}

function highest(probabilities) {
  return Object.entries(probabilities).reduce((best, other) => (other[1] > best[1] ? other : best));
}

function element(name, className = "", ...children) {
  const made = Object.assign(document.createElement(name), { className });
  made.append(...children);
  return made;
}
