// Steps through the words of answers: buttons, keys and play. Without it, the words are still radio buttons.

const PACE_MS = 650;
const ARROWS = { ArrowLeft: -1, ArrowRight: 1 };

const players = new Map();

function prepare(answer) {
  const words = [...answer.querySelectorAll(".words input")];
  const play = answer.querySelector(".play");
  let timer = 0;

  const choose = (number) => {
    words[Math.max(0, Math.min(words.length - 1, number))].checked = true;
  };
  const chosen = () => words.findIndex((word) => word.checked);
  const pause = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
  };
  const start = () => {
    if (chosen() === words.length - 1) choose(0);
    play.textContent = "Pause";
    timer = setInterval(() => {
      choose(chosen() + 1);
      if (chosen() === words.length - 1) pause();
    }, PACE_MS);
  };
  const step = (delta) => {
    pause();
    choose(chosen() + delta);
  };

  play.addEventListener("click", () => (timer ? pause() : start()));
  for (const button of answer.querySelectorAll("[data-step]")) {
    button.addEventListener("click", () => step(Number(button.dataset.step)));
  }
  answer.addEventListener("change", pause);
  answer.addEventListener("keydown", (event) => {
    if (event.target.type === "radio" || !(event.key in ARROWS)) return; // radio buttons do it themselves
    event.preventDefault();
    step(ARROWS[event.key]);
  });
  answer.querySelector(".stepper").hidden = false;
  players.set(answer, { start, pause });
}

for (const answer of document.querySelectorAll(".located")) {
  if (answer.querySelector(".words input")) prepare(answer);
}
for (const choices of document.querySelectorAll(".choose")) {
  choices.addEventListener("change", () => players.forEach(({ pause }) => pause()));
}

// The first answer is written before the reader's eyes, once.
const [first] = players.values();
if (first && !matchMedia("(prefers-reduced-motion: reduce)").matches) first.start();
