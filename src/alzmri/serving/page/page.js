// Sends each slice to this server and draws what it answers. No library, no other host.

const AT_ONCE = 2;
const ATTEMPTS = 20;
const $ = (id) => document.getElementById(id);

const about = await (await fetch("/model")).json();
const total = { done: 0, failed: 0, asked: 0 };
const answers = [];
const waiting = [];
let running = 0;
let generation = 0; // a cleared page draws nothing that was asked before

introduce();
$("files").addEventListener("change", () => {
  take($("files").files);
  $("files").value = ""; // or the same file could not be chosen again
});
$("clear").addEventListener("click", clear);
document.querySelector("a[href='#card']").addEventListener("click", () => { $("card").open = true; });
for (const kind of ["dragenter", "dragover"]) {
  window.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
window.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("over");
});
window.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  take(event.dataTransfer.files);
});

function introduce() {
  $("model").textContent =
    `${about.name}, ${about.classes.length} classes, ${about.image_size} × ${about.image_size} pixels,` +
    ` weights ${about.weights.slice(0, 8)}`;
  if (about.simulated) $("caution").textContent = "Trained on simulated slices: useless on real ones.";
  if (about.leaks) $("leaks").textContent =
    "These test slices share subjects with the training slices: the split leaks.";
  document.body.classList.toggle("unknown", about.reference !== null);
  $("card-text").innerHTML = about.card; // made by the server from Markdown, without its HTML
}

function clear() {
  generation += 1;
  Object.assign(total, { done: 0, failed: 0, asked: 0 });
  answers.length = waiting.length = 0;
  $("results").replaceChildren();
  for (const id of ["mean", "legend", "clear"]) $(id).hidden = true;
  $("promise").hidden = false;
  $("status").textContent = "";
  $("files").focus();
}

function take(files) {
  for (const file of files) {
    const volume = /\.(nii|nii\.gz|mgz|mgh)$/i.test(file.name);
    const item = placeholder(file.name);
    $("results").append(item);
    waiting.push({ file, name: file.name, volume, item, generation });
    total.asked += 1;
  }
  $("clear").hidden = total.asked === 0;
  $("promise").hidden = total.asked > 0;
  report();
  while (running < AT_ONCE && waiting.length) work();
}

async function work() {
  running += 1;
  while (waiting.length) {
    const job = waiting.shift();
    const outcome = job.volume
      ? await ask("/volume", "volume", job)
      : await ask("/explain", "image", job);
    if (job.generation !== generation) continue;
    if (job.volume && outcome.slices) {
      unfold(job, outcome.slices);
      report();
      continue;
    }
    total.done += 1;
    if (outcome.error) {
      total.failed += 1;
      refuse(job, outcome.error);
    } else {
      answers.push(outcome);
      show(job, outcome);
    }
    report();
  }
  running -= 1;
}

// A volume's slices take its place and are asked for one by one.
function unfold(job, slices) {
  const parts = slices.map(({ depth, slice }) => {
    const file = new File([bytes(slice)], "slice.png");
    return { ...job, file, name: `${job.name}, ${depth} mm below the top`, volume: false };
  });
  for (const part of parts) {
    part.item = placeholder(part.name);
    job.item.before(part.item);
  }
  job.item.remove();
  total.asked += parts.length - 1;
  waiting.unshift(...parts);
}

async function ask(route, field, { file }) {
  try {
    for (let attempt = 1; ; attempt += 1) {
      const form = new FormData();
      form.append(field, file, "file"); // its name stays here
      const response = await fetch(route, { method: "POST", body: form });
      if (response.status !== 503 || attempt === ATTEMPTS) return await response.json();
      const seconds = Number(response.headers.get("Retry-After") ?? 1);
      await new Promise((resume) => setTimeout(resume, 1000 * seconds));
    }
  } catch {
    return { error: "the server does not answer: is it still running?" };
  }
}

function refuse({ name, item }, reason) {
  item.classList.add("failed");
  item.replaceChildren(element("h2", name), element("p", `No prediction: ${reason}.`));
}

function show({ name, item }, answer) {
  const content = $("result").content.cloneNode(true).firstElementChild;
  const find = (selector) => content.querySelector(selector);
  const [most, probability] = highest(answer.probabilities);
  find("h2").textContent = name;
  find(".flag").hidden = answer.in_distribution;
  content.classList.toggle("outside", !answer.in_distribution);
  find(".slice").src = answer.slice;
  find(".slice").alt = `The slice as the model saw it, ${about.image_size} pixels a side`;
  if (answer.heat) {
    const range = find("input");
    const heat = find(".heat");
    heat.src = answer.heat;
    heat.alt = `Grad-CAM: where the evidence for ${most} is`;
    const blend = () => { heat.style.opacity = range.value / 100; };
    range.addEventListener("input", blend);
    blend();
  } else {
    find("figcaption").remove();
    find(".heat").remove();
  }
  find(".verdict").append(
    answer.predicted ?? "No class",
    element("span", answer.predicted ? ` ${decimal(probability)}` : ""),
  );
  find("tbody").replaceChildren(...rows(answer.probabilities, answer.calibration));
  if (answer.nearest) near(find(".nearest"), answer.nearest);
  item.replaceWith(content);
}

function rows(probabilities, calibration) {
  const [, most] = highest(probabilities);
  return about.classes.map((name, stage) => {
    const value = probabilities[name];
    const row = document.createElement("tr");
    const heading = element("th", name);
    heading.scope = "row";
    row.classList.toggle("most", value === most);
    const drawn = document.createElement("td");
    const track = element("div", "", "track");
    const fill = painted(element("div", "", "fill"), stage);
    fill.style.width = `${100 * value}%`;
    track.append(fill);
    drawn.append(track);
    row.append(heading, drawn, element("td", decimal(value)));
    const known = calibration?.[name];
    if (known) {
      const interval = element("div", "", "interval");
      interval.style.left = `${100 * known.low}%`;
      interval.style.width = `${100 * (known.high - known.low)}%`;
      track.append(interval);
      const cell = element(
        "td",
        `${decimal(known.share)} [${decimal(known.low)}, ${decimal(known.high)}]`,
        "known",
      );
      cell.title = `${known.slices} test slices of ${known.people} subjects`;
      row.append(cell);
    }
    return row;
  });
}

function near(place, nearest) {
  const stages = nearest.classes.map((name) => about.classes.indexOf(name));
  place.querySelector(".dots").replaceChildren(
    ...stages.map((stage) => painted(element("span", ""), stage)),
  );
  const counts = about.classes
    .map((name) => [nearest.classes.filter((other) => other === name).length, name])
    .filter(([count]) => count)
    .map(([count, name]) => `${count} ${name}`);
  const subjects = nearest.people === 1 ? "one subject" : `${nearest.people} subjects`;
  place.querySelector("p").textContent =
    `The ${stages.length} nearest training slices, of ${subjects}: ${counts.join(", ")}.`;
  place.hidden = false;
}

function report() {
  const { done, failed, asked } = total;
  const problems = failed ? `, ${failed} refused` : "";
  const last = answers.at(-1);
  const newest = done === asked && done === 1 && last
    ? `: ${last.predicted ?? "out of distribution"}, ${decimal(highest(last.probabilities)[1])}`
    : "";
  $("status").textContent = `${done} of ${asked} done${problems}${newest}`;
  $("legend").hidden = answers.length === 0;
  const inside = answers.filter((answer) => answer.in_distribution);
  const left = answers.length - inside.length;
  $("mean").hidden = inside.length < 2;
  if (inside.length < 2) return;
  $("mean-title").textContent =
    `${inside.length} slices together` + (left ? `, without ${left} out of distribution` : "");
  const mean = Object.fromEntries(about.classes.map((name) => [
    name,
    inside.reduce((sum, answer) => sum + answer.probabilities[name], 0) / inside.length,
  ]));
  $("mean").querySelector("tbody").replaceChildren(...rows(mean));
}

function painted(node, stage) {
  // The colours of the four stages are a scale: fewer or more classes divide it evenly.
  const place = (stage * 3) / (about.classes.length - 1);
  const below = Math.floor(place);
  const above = `var(--stage-${Math.ceil(place)}) ${100 * (place - below)}%`;
  node.style.background = `color-mix(in srgb, ${above}, var(--stage-${below}))`;
  return node;
}

function highest(probabilities) {
  return Object.entries(probabilities).reduce((best, other) => (other[1] > best[1] ? other : best));
}

function bytes(url) {
  return Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
}

function placeholder(name) {
  const item = document.createElement("li");
  item.className = "panel";
  item.append(element("h2", name), element("p", "Waiting…", "quiet"));
  return item;
}

function decimal(value) {
  return value.toFixed(2);
}

function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}
