"""The app: enter a patient's visits in the browser and see the ranking of the next visit, its cut and its reasons.

What a person enters stays in the memory of the session: nothing is logged or written, and the page loads
nothing from elsewhere. The state of a session: the entered patient, what the model read, the cut and the chosen code.
"""
